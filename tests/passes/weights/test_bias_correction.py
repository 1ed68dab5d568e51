from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from sparsecc.passes.weights.bias_correction import can_shift, shift_bias
from sparsecc.passes.weights.layers import find_layers

RNG = np.random.default_rng(0)
node = helper.make_node


def w(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


MATRIX, BIAS = w(24, 20), w(20)
MOVABLE = {
    "matmul + add": (
        [node("MatMul", ["x", "w"], ["h"], name="l"), node("Add", ["h", "b"], ["y"])],
        {"w": MATRIX, "b": BIAS},
    ),
    "add + matmul, rank 2": (
        [node("MatMul", ["x", "w"], ["h"], name="l"), node("Add", ["b", "h"], ["y"])],
        {"w": MATRIX, "b": BIAS[None]},
    ),
    "gemm": ([node("Gemm", ["x", "w", "b"], ["y"], name="l")], {"w": MATRIX, "b": BIAS}),
    "gemm without bias": ([node("Gemm", ["x", "w"], ["y"], name="l")], {"w": MATRIX}),
    "gemm with factors": (
        [node("Gemm", ["x", "w", "b"], ["y"], name="l", alpha=0.5, beta=4.0)],
        {"w": MATRIX, "b": BIAS},
    ),
    "bias with a second reader": (
        [
            node("MatMul", ["x", "w"], ["h"], name="l"),
            node("Add", ["h", "b"], ["y"]),
            node("Relu", ["b"], ["z"]),
        ],
        {"w": MATRIX, "b": BIAS},
    ),
}


@pytest.mark.parametrize("case", MOVABLE)
def test_the_output_moves_by_the_shift_and_nothing_else_does(
    case: str, build: Any, run: Any
) -> None:
    nodes, weights = MOVABLE[case]
    outputs = ("y", "z") if "second" in case else ("y",)
    model = build(nodes, weights, {"x": [5, 24]}, outputs)
    (layer,) = find_layers(model).layers
    x, shift = w(5, 24), w(20)
    before = run(model, x=x)
    assert can_shift(layer)
    shift_bias(layer, shift)
    # Gemm's alpha scales W·x, hence the shift too.
    scale = layer.node.attributes.get_float("alpha", 1.0)
    np.testing.assert_allclose(run(model, x=x), before + scale * shift, atol=1e-4)
    stored = model.graph.initializers["b"].const_value.numpy() if "b" in weights else None
    if "second" in case:
        assert np.array_equal(stored, BIAS)
    elif stored is not None:
        assert len(model.graph.initializers) == 2


def test_a_convolution_gets_a_bias(build: Any, run: Any) -> None:
    nodes = [node("Conv", ["x", "w"], ["y"], name="l")]
    model = build(nodes, {"w": w(20, 4, 3, 3)}, {"x": [1, 4, 5, 5]})
    (layer,) = find_layers(model).layers
    x, shift = w(1, 4, 5, 5), w(20)
    before = run(model, x=x)
    shift_bias(layer, shift)
    np.testing.assert_allclose(run(model, x=x), before + shift[:, None, None], atol=1e-4)


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("MatMul", ["x", "w"], ["y"], name="l")], {}),
        ([node("MatMul", ["x", "w"], ["h"], name="l"), node("Add", ["h", "h"], ["y"])], {}),
        (
            [node("MatMul", ["x", "w"], ["h"], name="l"), node("Add", ["h", "s"], ["y"])],
            {"s": w(1)},
        ),
        ([node("Gemm", ["x", "w", "s"], ["y"], name="l")], {"s": w(5, 20)}),
        ([node("Gemm", ["x", "w", "s"], ["y"], name="l", beta=0.0)], {"s": BIAS}),
    ],
)
def test_where_no_bias_can_move(nodes: Any, weights: dict[str, Any], build: Any) -> None:
    model = build(nodes, {"w": MATRIX, **weights}, {"x": [5, 24]})
    assert not can_shift(find_layers(model).layers[0])
