"""Processes that share the experts of a model compute what one process does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsecc
from benchmarks.training.processes import run
from sparsecc import ops
from sparsecc.capture import capture
from sparsecc.errors import ArtifactError, ModelError, PlanError, TargetError
from sparsecc.spread import Worker, spread
from sparsecc.spread.schedule import SCHEDULE_FILE, Call, Exchange
from sparsecc.spread.split import split
from tests.passes.moe import forms
from tests.sparsecc.ops.moe_cases import drawn

FEATURES, EXPERTS, CHOSEN = 32, 8, 2
LOAD = [8.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0]
LIGHT = (0, 1, 1, 1, 0, 0, 0, 1)
"""The process of each expert, by that load."""


def network(layers: int = 2, *, chosen: str = "") -> onnx.ModelProto:
    """Layers of a router, a mixture of experts and a residual, with a product between."""
    node, rng = helper.make_node, np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {"k": np.array([CHOSEN], np.int64)}
    nodes, x = [], "x"
    for at in range(layers):
        case = drawn(
            tokens=1,
            experts=EXPERTS,
            chosen=CHOSEN,
            features=FEATURES,
            hidden=48,
            gated=True,
            seed=at,
        )
        names = ops.input_names(case.op_type)[3:]
        weights |= {f"{name}{at}": case.feeds()[name] for name in names}
        weights[f"router{at}"] = rng.standard_normal((FEATURES, EXPERTS)).astype(np.float32)
        mix = rng.standard_normal((FEATURES, FEATURES)) / FEATURES**0.5
        weights[f"mix{at}"] = mix.astype(np.float32)
        routed = [f"h{at}", chosen or f"experts{at}", f"gates{at}"]
        nodes += [
            node("MatMul", [x, f"mix{at}"], [f"h{at}"], f"mix{at}"),
            node("MatMul", [f"h{at}", f"router{at}"], [f"scores{at}"], f"route{at}"),
            node("Softmax", [f"scores{at}"], [f"shares{at}"], f"share{at}", axis=-1),
            node("TopK", [f"shares{at}", "k"], [f"gates{at}", f"experts{at}"], f"choose{at}"),
            node(
                case.op_type,
                [*routed, *(f"{name}{at}" for name in names)],
                [f"mixed{at}"],
                f"moe{at}",
                domain=ops.DOMAIN,
            ),
            node("Add", [f"mixed{at}", x], [f"y{at}"], f"residual{at}"),
        ]
        x = f"y{at}"
    info = helper.make_tensor_value_info
    given = [info("x", TensorProto.FLOAT, ["tokens", FEATURES])]
    if chosen:
        given.append(info(chosen, TensorProto.INT64, ["tokens", CHOSEN]))
    return helper.make_model(
        helper.make_graph(
            nodes,
            "network",
            given,
            [info(x, TensorProto.FLOAT, ["tokens", FEATURES])],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(ops.DOMAIN, ops.VERSION)],
        functions=[ops.function(ops.moe_variant("silu", gated=True), 17)],
        ir_version=8,
    )


def feeds(tokens: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((tokens, FEATURES)).astype(np.float32)}


DATA = feeds(500, 3)


def worked(folder: str, given: list[list[dict[str, Any]]]) -> list[Any]:
    """Outputs of a process for its inputs, or what it says; run in every process."""
    import torch.distributed as dist

    worker, found = Worker(folder), []
    for each in given:
        try:
            found.append(worker(each[dist.get_rank()]))
        except ModelError as error:
            found.append(str(error))
    return found


def refused(folder: str) -> str:
    try:
        Worker(folder)
    except TargetError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Path:
    return spread(network(), tmp_path_factory.mktemp("spread") / "four", 4)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    return spread(network(), tmp_path_factory.mktemp("spread") / "two", 2, calibration=DATA)


def owners(folder: Path) -> dict[str, tuple[int, ...]]:
    steps = schedule(folder).steps
    return {step.node: step.owners for step in steps if isinstance(step, Exchange)}


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_compute_what_one_does(ranks, four, two):
    """Four have the experts in their order, two by what tokens choose."""
    folder = four if ranks == 4 else two
    # Not alike on all processes, an empty one among them, and one token.
    sizes = [[7, 40, 0, 1][:ranks], [0, 0, 3, 2][:ranks], [64] * ranks]
    given = [
        [feeds(size, 10 * call + at) for at, size in enumerate(each)]
        for call, each in enumerate(sizes)
    ]
    alone = sparsecc.compile(network())
    for rank, found in enumerate(run(worked, ranks, str(folder), given)):
        for each, outputs in zip(given, found, strict=True):
            wanted = alone.run(each[rank])["y1"]
            assert outputs["y1"].shape == wanted.shape
            np.testing.assert_allclose(outputs["y1"], wanted, rtol=0, atol=2e-5)


def test_experts_are_in_their_order_or_placed_by_load(four):
    assert {*owners(four).values()} == {(0, 0, 1, 1, 2, 2, 3, 3)}
    steps = split(capture(network()), 2, LOAD).schedule.steps
    assert [step.owners for step in steps if isinstance(step, Exchange)] == [LIGHT] * 2


def test_each_mixture_is_placed_by_what_tokens_choose_at_it(two):
    """Groups are not contiguous, differ between layers, and are lighter than in their order."""
    placed, alone = owners(two), sparsecc.compile(network(), calibration=DATA)
    assert len({*placed.values()}) == len(placed) == len(alone.plan.mixtures) == 2
    for mixture in alone.plan.mixtures:
        ours, in_order = (
            np.bincount(each, mixture.chosen).max()
            for each in (placed[mixture.name], np.repeat([0, 1], EXPERTS // 2))
        )
        assert ours < in_order
        assert ours <= 1.02 * sum(mixture.chosen) / 2


def test_what_is_chosen_is_said_once(tmp_path):
    with pytest.raises(PlanError, match="both say"):
        spread(network(), tmp_path / "both", 2, calibration=DATA, load=LOAD)


def test_a_mixture_in_standard_ops_is_recognised_and_spread(tmp_path):
    x = forms.tokens()[0]
    graph = capture(forms.Masked(), (x,))
    folder = spread(graph, tmp_path / "two", 2)
    assert [step.kind for step in schedule(folder).steps].count("exchange") == 1
    (name,), alone = schedule(folder).inputs, sparsecc.compile(graph)
    given = {name: x.numpy()}
    (wanted,) = alone.run(given).values()
    for found in run(worked, 2, str(folder), [[given, given]]):
        (got,) = found[0].values()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5)


def test_sequences_of_a_fixed_length_are_refused(tmp_path):
    graph = capture(forms.Masked(), (forms.tokens(),))
    with pytest.raises(ModelError, match="does not run alone") as caught:
        spread(graph, tmp_path / "two", 2)
    assert "tokens [T, d]" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def schedule(folder: Path):
    return SCHEDULE_FILE.load(folder / "schedule.json")


def test_every_process_has_its_experts_alone(four):
    read = schedule(four)
    assert [step.kind for step in read.steps] == ["call", "exchange", "call", "exchange", "call"]
    assert isinstance(read.steps[0], Call)
    assert set(read.steps[0].inputs) == {"x"}
    # What is read after the exchange is kept until then.
    assert {"h0", "gates0", "experts0"} <= set(read.steps[0].outputs)
    sizes = {
        path.parent.parent.name: path.stat().st_size
        for path in four.glob("rank*/experts0/model.onnx*")
    }
    assert set(sizes) == {f"rank{rank}" for rank in range(4)}
    expert = 3 * FEATURES * 48 * 4
    assert all(2 * expert <= size < 4 * expert for size in sizes.values())


def test_an_expert_that_there_is_not_is_told_to_all(tmp_path):
    folder = spread(network(1, chosen="chosen"), tmp_path / "two", 2)
    wrong = np.array([[0, EXPERTS], [1, 2]])
    given = [
        [feeds(2, 0) | {"chosen": wrong}, feeds(2, 1) | {"chosen": np.array([[0, 1], [1, 2]])}],
        [feeds(2, at) | {"chosen": np.array([[0, 1], [1, 2]])} for at in range(2)],
        [{"y": np.zeros(1)}] * 2,
    ]
    first, second = run(worked, 2, str(folder), given)
    assert "outside of 0 … 7 (at node 'moe0')" in first[0]
    assert "outside of 0 … 7 in another process (at node 'moe0')" in second[0]
    for found in (first, second):  # and they go on
        assert found[1]["y0"].shape == (2, FEATURES)
        assert "got the inputs ['y'], the model wants ['x', 'chosen']" in found[2]


def test_other_numbers_of_processes_are_refused(four):
    assert "is for 4 processes, and there are 1" in run(refused, 1, str(four))[0]


@pytest.mark.parametrize(
    ("ranks", "load", "error", "what"),
    [
        (3, None, PlanError, "8 experts do not divide over 3 processes"),
        (0, None, PlanError, "a model for 0 processes"),
        (2, [1.0], PlanError, "load has 1 numbers for the 8 experts of moe0"),
    ],
)
def test_what_cannot_be_spread_says_why(ranks, load, error, what, tmp_path):
    with pytest.raises(error, match=what):
        spread(network(), tmp_path / "out", ranks, load=load)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_experts_and_a_folder_of_something_else(tmp_path):
    plain = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "plain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    with pytest.raises(ModelError, match="no mixture of experts"):
        spread(plain, tmp_path / "out", 2)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ArtifactError, match="holds no model for several processes"):
        spread(network(), tmp_path / "mine", 2)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"steps": []}, "nothing makes the output y1"),
        ({"inputs": []}, "reads x, which is not made before"),
        ({"ranks": 1}, "has experts at 3, of 1"),
        ({"part": "../part0"}, "should match pattern"),
        ({"format": 2}, "schedule format 2"),
    ],
)
def test_a_schedule_that_was_altered_is_refused(four, tmp_path, change, what):
    content = json.loads((four / "schedule.json").read_text())
    if "part" in change:
        content["steps"][0] |= change
    else:
        content |= change
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=what):
        SCHEDULE_FILE.load(path)
