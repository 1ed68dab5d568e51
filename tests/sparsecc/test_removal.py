"""``compile(sparsity="channels:0.3")``: smaller layers, alone and with all else there is."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import sparsecc
from sparsecc.capture import capture
from sparsecc.errors import ModelError, PlanError
from sparsecc.inspection import inspect
from sparsecc.measure import TOLERANCE
from sparsecc.search.plan import Plan
from sparsecc.torch import masks, plan_masks
from tests import small
from tests.end_to_end import transformers
from tests.sparsecc.torch.recovery.cases import inputs

TARGET = "x86-64-v4"
DATA = {"x": inputs(320)}
FRESH = inputs(200, seed=3)


def compiled(sparsity: str = "channels:0.5", **more: Any) -> sparsecc.Compiled:
    settings: dict[str, Any] = {"calibration": DATA, "executor": "serial", **more}
    return sparsecc.compile(small.mlp("n"), TARGET, sparsity=sparsity, **settings)


def without(proto: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """The model with zeros for what the layer behind each set would read of it."""
    twin = onnx.ModelProto()
    twin.CopyFrom(proto)
    tensors = {each.name: each for each in twin.graph.initializer}
    chain = [
        node
        for node in twin.graph.node
        if node.op_type == "Gemm" or (node.op_type == "Conv" and _groups(node) == 1)
    ]
    behind = {one.name: other for one, other in itertools.pairwise(chain)}
    for each in plan.removed:
        node = behind[each.name]
        tensor = tensors[node.input[1]]
        weight = numpy_helper.to_array(tensor).copy()
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        inputs_first = weight.T if node.op_type == "Gemm" and not transposed else weight
        inputs_first[:, list(each.gone)] = 0
        tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    return twin


def _groups(node: onnx.NodeProto) -> int:
    return next((each.i for each in node.attribute if each.name == "group"), 1)


def distance(got: Any, wanted: Any) -> float:
    assert got.shape == wanted.shape
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def lost(got: Any, stock: Callable[..., Any]) -> float:
    """Share of the squares of the dense model's outputs on fresh inputs."""
    wanted = stock(small.mlp("n"), x=FRESH)
    return float(((got - wanted) ** 2).sum() / (wanted**2).sum())


def same_again(made: sparsecc.Compiled, folder: Path, model: Any = None, data: Any = None) -> bool:
    again = sparsecc.apply(model or small.mlp("n"), made.plan, calibration=data or DATA)
    one, other = (each.save(folder / str(at)) for at, each in enumerate((made, again)))
    assert again.plan.removed == made.plan.removed
    return (one / "model.onnx").read_bytes() == (other / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def halved() -> sparsecc.Compiled:
    return compiled(refit=False)


def test_an_mlp_is_the_one_with_zeros_and_half_as_large(halved, stock, tmp_path) -> None:
    assert [(each.name, each.units, len(each.gone)) for each in halved.plan.removed] == [
        ("fc1", 256, 128),
        ("fc2", 256, 128),
    ]
    wanted = stock(without(small.mlp("n"), halved.plan), x=FRESH)
    assert distance(halved(FRESH), wanted) < TOLERANCE
    path = halved.save(tmp_path / "out")
    assert distance(stock(path / "model.onnx", x=FRESH), wanted) < TOLERANCE
    assert {n: (each.rows, each.cols) for n, each in _layers(halved).items()} == {
        "fc1": (128, 256),
        "fc2": (128, 128),
        "head": (10, 128),
    }
    whole = compiled("existing", calibration=None).save(tmp_path / "whole")
    sizes = [sum(f.stat().st_size for f in each.glob("model.onnx*")) for each in (path, whole)]
    assert sizes[0] < 0.45 * sizes[1]  # two thirds of the weights are gone


def _layers(made: sparsecc.Compiled) -> dict[str, Any]:
    return {layer.name: layer for layer in made.plan.layers}


def test_the_report_and_the_plan_say_what_was_removed(halved) -> None:
    layers = _layers(halved)
    assert "128 inputs removed, 128 outputs removed" in layers["fc2"].reason
    assert halved.plan.spec == "channels:0.5"
    assert "128 inputs removed" in str(halved.report.to_json())
    sets = len(halved.plan.removed)
    assert f"{sets} sets of channels made smaller" in str(halved.report)
    whole = inspect(small.mlp("n"), TARGET)
    assert halved.report.dense_ms == pytest.approx(sum(row.dense_ms for row in whole))
    assert 0 < halved.quality["rel_error"] < 1


def test_the_refit_helps_and_a_plan_repeats_it(halved, stock, tmp_path) -> None:
    made = compiled()
    assert lost(made(FRESH), stock) < 0.5 * lost(halved(FRESH), stock)
    assert "refit" in _layers(made)["head"].reason
    assert same_again(made, tmp_path)


def test_a_convolution_net_is_the_one_with_zeros(stock, tmp_path) -> None:
    data = [{"image": small.image(seed)} for seed in range(5)]
    made = sparsecc.compile(
        small.mobilenet(), TARGET, sparsity="channels:0.3", refit=False, calibration=data
    )
    assert len(made.plan.removed) == 14
    x = small.image(9)
    wanted = stock(without(small.mobilenet(), made.plan), image=x)
    assert distance(made(x), wanted) < TOLERANCE
    assert distance(wanted, stock(small.mobilenet(), image=x)) > 0.01
    assert same_again(made, tmp_path, small.mobilenet(), data)


@pytest.fixture(scope="module")
def block() -> torch.nn.Module:
    torch.manual_seed(0)
    return transformers.SplitBlock(fused=False).eval()


@pytest.fixture(scope="module")
def tokens() -> Any:
    return np.random.default_rng(0).standard_normal((24, 9, 64)).astype(np.float32)


@pytest.mark.filterwarnings("ignore")  # of torch, to whoever exports
def test_a_transformer_block_without_heads(block, tokens) -> None:
    graph = capture(block, (torch.from_numpy(tokens[:4]),), {"tokens": {0: torch.export.Dim.AUTO}})
    data = [{graph.graph.inputs[0].name: each} for each in np.split(tokens, 6)]
    made = sparsecc.compile(graph, TARGET, sparsity="heads:0.25", refit=False, calibration=data)
    (removed,) = made.plan.removed
    assert (removed.kind, removed.units, len(removed.gone)) == ("heads", 4, 1)
    held = {layer.name: (layer.rows, layer.cols) for layer in made.plan.layers}
    assert [held[name] for name in ("query", "key", "value")] == [(48, 64)] * 3
    assert held["dense"] == (64, 48)
    twin = transformers.SplitBlock(fused=False).eval()
    twin.load_state_dict(block.state_dict())
    with torch.no_grad():
        twin.dense.weight.view(64, 4, 16)[:, list(removed.gone)] = 0
        wanted = twin(torch.from_numpy(tokens[:4])).numpy()
    assert distance(made(tokens[:4]), wanted) < TOLERANCE


def test_layers_that_are_dense_by_name_keep_their_channels() -> None:
    made = compiled(overrides={"fc1": "dense"})
    assert [each.name for each in made.plan.removed] == ["fc2"]
    assert _layers(made)["fc1"].rows == 256
    with pytest.raises(PlanError, match="are of layers that are to stay dense"):
        compiled(overrides={"fc2": "dense"})  # reads what fc1 makes, makes what the head reads
    with pytest.raises(PlanError, match="'fc9' matches no prunable layer"):
        compiled(overrides={"fc9": "dense"})
    with pytest.raises(PlanError, match="asked for at 'fc1' alone"):
        compiled("dense", overrides={"fc1": "channels:0.5"})


def test_a_plan_of_removal_and_two_patterns(tmp_path) -> None:
    made = compiled(overrides={"fc1": "4x1:0.5", "fc2": "2:4"})
    layers = _layers(made)
    assert [(str(layers[n].choice.pattern), layers[n].rows) for n in ("fc1", "fc2", "head")] == [
        ("4x1", 128),
        ("2:4", 128),
        ("dense", 10),
    ]
    assert [layers[n].density for n in ("fc1", "fc2")] == pytest.approx([0.5, 0.5])
    assert made.manifest.numerics["max_rel_error"] < TOLERANCE
    assert same_again(made, tmp_path)


def test_what_is_left_is_put_in_order(tmp_path) -> None:
    asked = {"sparsity": "channels:0.25", "overrides": {"fc2": "4x1:0.7"}}
    plain, made = compiled(**asked), compiled(permute=True, **asked)
    assert made.plan.removed == plain.plan.removed
    assert made.plan.permuted == "choices"
    assert made.manifest.numerics["max_rel_error"] < TOLERANCE
    assert made.quality["rel_error"] < 1.02 * plain.quality["rel_error"]
    assert same_again(made, tmp_path)


def test_it_is_trained_by_the_whole_model(stock, tmp_path) -> None:
    asked = {"sparsity": "channels:0.6", "refit": False}
    made = compiled(recover="20 steps", **asked)
    assert made.plan.recovery is not None
    assert made.plan.recovery.after < 0.6 * made.plan.recovery.before
    assert lost(made(FRESH), stock) < 0.6 * lost(compiled(**asked)(FRESH), stock)
    assert same_again(made, tmp_path)


def test_a_teacher_in_another_order_teaches_nothing() -> None:
    with pytest.raises(PlanError, match="cannot learn from the dense model"):
        compiled(recover="20 steps", permute=True)
    edited = json.loads(compiled(refit=False).plan.to_json())
    edited["permuted"] = "choices"
    edited["recovery"] = {"steps": 9, "best": 9, "before": 1.0, "after": 0.5, "reason": ""}
    with pytest.raises(PlanError, match="cannot learn from the dense model"):
        sparsecc.apply(small.mlp("n"), Plan.from_json(json.dumps(edited)), calibration=DATA)


def test_it_becomes_eight_bit(halved) -> None:
    made = compiled(refit=False, quantize="int8")
    assert made.plan.removed == halved.plan.removed
    assert any(layer.kernel.startswith("int8") for layer in made.plan.layers)
    got, wanted = made(FRESH), halved(FRESH)
    assert 0 < distance(got, wanted) < 0.05


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gone": [256]}, "fewer than all 256 units"),
        ({"gone": [3, 3]}, "each once, in ascending order"),
        ({"gone": [4, 3]}, "each once, in ascending order"),
        ({"gone": list(range(256))}, "fewer than all 256 units"),
        ({"gone": []}, "at least 1 item"),
        ({"gone": [-1]}, "greater than or equal to 0"),
        ({"name": "fc2"}, "names a set twice"),
        ({"kind": "heads"}, "of one kind"),
        ({"refit": True}, "one refit for all"),
        ({"name": "fc9"}, "removes 128 of 256 channels at 'fc9', and the model has none"),
        ({"units": 512}, "removes 128 of 512 channels at 'fc1', and the model has none"),
    ],
)
def test_plans_that_cannot_be(halved, change: dict[str, Any], said: str) -> None:
    edited = json.loads(halved.plan.to_json())
    edited["removed"][0] |= change
    with pytest.raises(PlanError, match=said):
        sparsecc.apply(small.mlp("n"), Plan.from_json(json.dumps(edited)), calibration=DATA)


def test_layers_of_a_plan_are_those_of_what_is_left(halved) -> None:
    edited = json.loads(halved.plan.to_json())
    edited["removed"] = edited["removed"][:1]
    with pytest.raises(PlanError, match=r"'fc2' as Gemm \[128, 128\], the model as Gemm \[256"):
        sparsecc.apply(small.mlp("n"), Plan.from_json(json.dumps(edited)), calibration=DATA)


def test_its_masks_fit_no_module(halved, tmp_path) -> None:
    with pytest.raises(ModelError, match="has lost some of its channels"):
        masks(halved.save(tmp_path / "out"))
    with pytest.raises(ModelError, match="has lost some of its channels"):
        plan_masks(torch.nn.Linear(2, 2), halved.plan)
