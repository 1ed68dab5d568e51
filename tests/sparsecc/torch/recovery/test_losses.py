"""Distances between student and teacher: zero when they agree, and of the right kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper

from sparsecc.errors import ModelError
from sparsecc.torch.recovery import losses
from tests import small
from tests.sparsecc.torch.recovery.cases import canonical

EYE = np.eye(8, dtype=np.float32)


def ending(op: str, **attributes):
    """A model whose output comes from an op, through a reshape."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "layer")]
    if op:
        nodes.append(helper.make_node(op, ["h"], ["s"], "end", **attributes))
    nodes.append(helper.make_node("Identity", [nodes[-1].output[0]], ["y"], "out"))
    return canonical(small.model(nodes, {"x": ["n", 8]}, {"y": ["n", 8]}, {"w": EYE}))


@pytest.mark.parametrize(
    ("op", "attributes", "wanted"),
    [
        ("", {}, losses.relative_error),
        ("Softmax", {"axis": -1}, losses.divergence),
        ("Softmax", {"axis": 1}, losses.divergence),
        ("Softmax", {"axis": 0}, losses.relative_error),
        ("LogSoftmax", {"axis": -1}, losses.log_divergence),
        ("Sigmoid", {}, losses.binary_divergence),
        ("Tanh", {}, losses.relative_error),
    ],
)
def test_an_output_is_compared_as_its_op_asks(op: str, attributes, wanted) -> None:
    assert list(losses.output_losses(ending(op, **attributes)).values()) == [wanted]


def test_every_distance_is_zero_only_where_both_agree() -> None:
    rng = torch.Generator().manual_seed(0)
    p = torch.softmax(torch.randn(5, 8, generator=rng), -1)
    q = torch.softmax(torch.randn(5, 8, generator=rng), -1)
    pairs = {
        losses.relative_error: (p, q),
        losses.divergence: (p, q),
        losses.log_divergence: (p.log(), q.log()),
        losses.binary_divergence: (p, q),
    }
    for of, (ours, wanted) in pairs.items():
        assert float(of(wanted, wanted)) == pytest.approx(0, abs=1e-6)
        assert float(of(ours, wanted)) > 1e-3
    wanted = (q * (q.log() - p.log())).sum(-1).mean()
    assert float(losses.divergence(p, q)) == pytest.approx(float(wanted), rel=1e-5)


def test_class_numbers_add_their_cross_entropy() -> None:
    goal = losses.goal_of(ending("Softmax", axis=-1), None, labelled=True)
    p = torch.softmax(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), -1)
    labels = np.array([1, 0, 7, 3])
    got = goal({"y": p}, {"y": p}, labels)
    assert float(got) == pytest.approx(float(-p[range(4), labels].log().mean()), rel=1e-5)
    assert float(goal({"y": p}, {"y": p}, np.array(["a", "b", "c", "d"]))) == pytest.approx(0)


def test_a_loss_of_the_user_gets_labels_or_the_teachers_outputs() -> None:
    seen = []
    goal = losses.goal_of(
        ending(""), lambda ours, wanted: seen.append(wanted) or ours["y"].sum(), labelled=True
    )
    y = torch.ones(1, 8)
    assert float(goal({"y": y}, {"y": y * 2}, None)) == 8
    goal({"y": y}, {"y": y * 2}, np.array([3]))
    assert float(seen[0]["y"].sum()) == 16
    assert seen[1].tolist() == [3]


def test_a_model_of_whole_numbers_alone_is_refused() -> None:
    from onnx import TensorProto

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "layer"),
        helper.make_node("ArgMax", ["h"], ["y"], "class"),
    ]
    proto = small.model(nodes, {"x": ["n", 8]}, {"y": [1, 8]}, {"w": EYE})
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(ModelError, match="floating point"):
        losses.output_losses(canonical(proto))
