"""Every op against the node tests of the ONNX project and ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

torch = pytest.importorskip("torch")

from sparsecc.errors import UnsupportedOpError  # noqa: E402
from sparsecc.torch import Interpreter  # noqa: E402
from sparsecc.torch.ops import OPS  # noqa: E402
from tests.sparsecc.torch import node_cases  # noqa: E402

PARTS = 8
RANDOM = ("Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")


def _failures(cases: list[Any]) -> str:
    found = []
    for case in cases:
        if case.name not in node_cases.SKIPPED:
            try:
                node_cases.check(case)
            except Exception as error:
                found.append(f"{case.name}: {' '.join(str(error).split())[:300]}")
    return "\n".join(found)


def _ops_of(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("op", sorted(OPS))
def test_the_cases_of_an_op(op: str) -> None:
    failures = _failures([c for c in node_cases.collected() if _ops_of(c.model) == [op]])
    assert not failures, failures


@pytest.mark.parametrize("part", range(PARTS))
def test_the_cases_of_several_nodes(part: int) -> None:
    """Function bodies, for the most part."""
    several = [case for case in node_cases.collected() if len(case.model.graph.node) > 1]
    failures = _failures(several[part::PARTS])
    assert not failures, failures


def test_every_op_has_a_case_that_runs() -> None:
    run = [case.model for case in node_cases.collected() if case.name not in node_cases.SKIPPED]
    covered = {op for model in (*run, *_more().values()) for op in _ops_of(model)}
    assert set(OPS) - covered == set(RANDOM)


def test_what_is_skipped_is_there_and_needs_to_be() -> None:
    cases = {case.name: case for case in node_cases.collected()}
    assert node_cases.SKIPPED.keys() | node_cases.RUNTIME_DIFFERS.keys() <= cases.keys()
    for name, reason in node_cases.SKIPPED.items():
        if reason != node_cases.RANDOM:
            with pytest.raises(UnsupportedOpError):
                Interpreter(ir.from_proto(cases[name].model))
    for name in node_cases.RUNTIME_DIFFERS:
        feed = dict(
            zip(
                (value.name for value in cases[name].model.graph.input),
                map(node_cases.tensor, cases[name].data_sets[0][0]),
                strict=True,
            )
        )
        session = node_cases.runtime(cases[name].model)
        assert session is not None
        ours = Interpreter(ir.from_proto(cases[name].model))(feed)
        theirs = node_cases.computed(session, feed)
        assert theirs is not None
        assert any(
            each.shape != other.shape or not torch.allclose(each, other, rtol=0.01)
            for each, other in zip(ours.values(), theirs, strict=True)
        )


def _more() -> dict[str, onnx.ModelProto]:
    """Models of ops that the ONNX project has no case for."""
    node = helper.make_node
    last = onnx.numpy_helper.from_array(np.array(-1), "last")
    nodes = {
        "pool": [node("GlobalLpPool", ["x"], ["y"], p=3)],
        "sequence": [
            node("SequenceConstruct", ["x", "x"], ["s"]),
            node("Neg", ["x"], ["n"]),
            node("SequenceInsert", ["s", "n"], ["t"]),
            node("SequenceErase", ["t"], ["u"]),
            node("SequenceInsert", ["u", "n", "last"], ["v"]),
            node("ConcatFromSequence", ["v"], ["c"], axis=1),
            node("SequenceAt", ["v", "last"], ["a"]),
            node("Concat", ["c", "a"], ["y"], axis=1),
        ],
        "optional": [
            node("SequenceConstruct", ["x"], ["s"]),
            node("Optional", ["s"], ["o"]),
            node("OptionalGetElement", ["o"], ["g"]),
            node("ConcatFromSequence", ["g"], ["y"], axis=0, new_axis=1),
        ],
    }
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return {
        name: helper.make_model(
            helper.make_graph(each, name, [x], [y], [last]),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        for name, each in nodes.items()
    }


@pytest.mark.parametrize("name", sorted(_more()))
def test_ops_without_a_case_equal_onnx_runtime(name: str) -> None:
    model = _more()[name]
    feed = {"x": torch.randn(2, 3, 4, 5, generator=torch.manual_seed(0))}
    session = node_cases.runtime(model)
    assert session is not None
    (theirs,) = node_cases.computed(session, feed)
    node_cases.compare(Interpreter(ir.from_proto(model))(feed)["y"], theirs, 1e-5, 1e-6)


@pytest.mark.parametrize("op", RANDOM)
def test_random_numbers_have_their_moments_and_follow_the_seed(op: str) -> None:
    settings = {
        "Bernoulli": {},
        "RandomNormal": {"mean": 2.0, "scale": 0.5, "shape": [200, 200]},
        "RandomNormalLike": {"mean": 2.0, "scale": 0.5},
        "RandomUniform": {"low": 1.0, "high": 3.0, "shape": [200, 200]},
        "RandomUniformLike": {"low": 1.0, "high": 3.0},
    }[op]
    mean, deviation = {"B": (0.25, 0.433), "N": (2, 0.5), "U": (2, 0.577)}[
        "B" if op == "Bernoulli" else "N" if "Normal" in op else "U"
    ]
    takes = ["x"] if op.endswith("Like") or op == "Bernoulli" else []
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [200, 200])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [200, 200])
    graph = helper.make_graph([helper.make_node(op, takes, ["y"], **settings)], "random", [x], [y])
    interpreter = Interpreter(ir.from_proto(helper.make_model(graph)))
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append(interpreter({"x": torch.full((200, 200), 0.25)})["y"])
    assert torch.equal(*draws)
    assert abs(draws[0].mean() - mean) < 0.02
    assert abs(draws[0].std() - deviation) < 0.02
