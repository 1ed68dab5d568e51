"""What a recovery trains: weights and biases, normalisations and scales per channel; no tables."""

from __future__ import annotations

import math

import onnx_ir as ir

from sparsecc.passes.edit import is_op

_WEIGHTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}
"""Op type → inputs that are weights; its other constants are biases and states."""
_NORMS = (
    "LayerNormalization",
    "RMSNormalization",
    "BatchNormalization",
    "InstanceNormalization",
    "GroupNormalization",
)
_PER_CHANNEL = ("Add", "Mul", "Sub", "Div")
_FROZEN_INPUTS = {"BatchNormalization": (3, 4)}
"""Statistics, which are measured, not trained."""


def trained_names(model: ir.Model) -> set[str]:
    """Names of the constants of the main graph that are trained."""
    return {
        name
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype.is_floating_point()
        and value.uses()
        and all(_trains(node, at, value) for node, at in value.uses())
    }


def weight_names(model: ir.Model) -> set[str]:
    """Names of the constants of the main graph that are weights, factors of weights among them.

    Zeros of weights mean that nothing is multiplied; those of biases are values as others are.
    """
    return {
        name
        for name, value in model.graph.initializers.items()
        if any(is_op(node, *_WEIGHTS) and at in _WEIGHTS[node.op_type] for node, at in value.uses())
    }


def _trains(node: ir.Node, position: int, value: ir.Value) -> bool:
    if is_op(node, *_WEIGHTS, *_NORMS, "PRelu"):
        return position not in _FROZEN_INPUTS.get(node.op_type, ())
    return is_op(node, *_PER_CHANNEL) and _is_per_channel(value)


def _is_per_channel(value: ir.Value) -> bool:
    """Whether a constant has one number for each channel, and more than one channel."""
    tensor = value.const_value
    assert tensor is not None
    sizes = tensor.shape.numpy()
    return max(sizes, default=1) == math.prod(sizes) > 1


__all__ = ["trained_names", "weight_names"]
