"""What the execution provider takes with a layer: activations, residuals, and in which graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.ops.activations import BY_NAME
from tests import small
from tests.backends.onnxruntime.ep_models import (
    CHANNELS,
    SIDE,
    check,
    conv_model,
    fused,
    image,
    pruned,
)

pytestmark = pytest.mark.usefixtures("provider")


@pytest.mark.parametrize("activation", [name for name in BY_NAME if name != "none"])
def test_every_activation_in_standard_ops_is_fused(activation: str) -> None:
    body = BY_NAME[activation].body("c", "y")
    session = check(conv_model(body), {"x": 4 * image()})
    (group,) = fused(session)
    assert set(group) == {"Conv", *(node.op_type for node in body)} - {"Constant"}


@pytest.mark.parametrize(
    ("op", "attributes", "opset", "taken"),
    [
        ("HardSwish", {}, 17, True),
        ("Gelu", {"approximate": "tanh"}, 20, True),
        ("Clip", {"min": 0.0, "max": 6.0}, 10, True),
        ("Clip", {"min": 0.0, "max": 5.0}, 10, False),
        ("HardSigmoid", {}, 17, False),
        ("LeakyRelu", {}, 17, False),
        ("Tanh", {}, 17, False),
    ],
)
def test_only_known_activations_are_fused(
    op: str, attributes: dict[str, Any], opset: int, taken: bool
) -> None:
    model = conv_model([helper.make_node(op, ["c"], ["y"], **attributes)], opset=opset)
    assert fused(check(model, {"x": 4 * image()})) == (
        [sorted(["Conv", op])] if taken else [["Conv"]]
    )


def test_a_value_that_is_read_elsewhere_is_not_fused_away() -> None:
    tail = [
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["r", "c"], ["y"]),
    ]
    assert fused(check(conv_model(tail), {"x": image()})) == [["Conv"]]
    seen = onnx.load_from_string(conv_model([helper.make_node("Relu", ["c"], ["y"])]))
    seen.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))
    assert fused(check(seen.SerializeToString(), {"x": image()})) == [["Conv"]]


def residual_model(residual: Sequence[int | str | None], batch: int | str | None = 1) -> bytes:
    tail = [
        helper.make_node("Add", ["z", "c"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    return conv_model(tail, {"z": residual}, batch=batch)


def test_residuals_of_equal_shape_are_fused() -> None:
    feeds = {"x": image(), "z": image(1, 64)}
    whole = [["Add", "Conv", "Relu"]]
    assert fused(check(residual_model([1, 64, SIDE, SIDE]), feeds)) == whole
    dynamic = residual_model(["N", 64, SIDE, SIDE], "N")
    for batch in (1, 3):
        assert fused(check(dynamic, {"x": image(batch), "z": image(batch, 64)})) == whole


def test_residuals_that_may_broadcast_are_not_fused() -> None:
    wide = {"x": image(1), "z": image(2, 64)}
    assert fused(check(residual_model(["M", 64, SIDE, SIDE], "N"), wide)) == [["Conv"]]
    assert fused(check(residual_model([None, 64, SIDE, SIDE], None), wide)) == [["Conv"]]
    thin = {"x": image(), "z": np.ones((1, 64, 1, 1), np.float32)}
    assert fused(check(residual_model([1, 64, 1, 1]), thin)) == [["Conv"]]


def test_of_two_layers_that_are_added_one_takes_the_sum() -> None:
    weights = {"w2": pruned((64, CHANNELS, 1, 1), seed=1)}
    tail = [
        helper.make_node("Conv", ["x", "w2"], ["d"], "other"),
        helper.make_node("Add", ["c", "d"], ["y"]),
    ]
    session = check(conv_model(tail, weights=weights), {"x": image()})
    assert fused(session) == [["Add", "Conv"], ["Conv"]]


def test_a_layer_may_be_its_own_residual_and_share_its_weight() -> None:
    square = pruned((CHANNELS, CHANNELS, 3, 3))
    tail = [
        helper.make_node("Add", ["c", "x"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["y"], "second"),
    ]
    model = conv_model(tail, weights={"w": square}, pads=[1] * 4)
    assert fused(check(model, {"x": image()})) == [["Add", "Conv"], ["Conv"]]


def test_layers_inside_a_branch() -> None:
    """The weight of the one branch is its own, that of the other the outer graph's."""
    weight = numpy_helper.from_array(pruned((64, CHANNELS, 1, 1)), "inner")

    def branch(name: str, own: bool) -> onnx.GraphProto:
        node = helper.make_node("Conv", ["x", "inner" if own else "w"], [name], name)
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [output], [weight] if own else [])

    choice = {"then_branch": branch("t", True), "else_branch": branch("e", False)}
    nodes = [
        helper.make_node("Cast", ["flag"], ["condition"], to=TensorProto.BOOL),
        helper.make_node("If", ["condition"], ["y"], **choice),
    ]
    ins = {"x": [1, CHANNELS, SIDE, SIDE], "flag": [1]}
    weights = {"w": pruned((64, CHANNELS, 1, 1), seed=1)}
    model = small.model(nodes, ins, {"y": [1, 64, SIDE, SIDE]}, weights).SerializeToString()
    for flag in (0, 1):
        check(model, {"x": image(), "flag": np.array([flag], np.float32)})
