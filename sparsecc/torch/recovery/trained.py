"""What a recovery trains: weights and biases, normalisations and scales per channel; no tables."""

from __future__ import annotations

import math

import onnx_ir as ir

from sparsecc.passes.edit import is_op

_WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "PRelu")
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


def _trains(node: ir.Node, position: int, value: ir.Value) -> bool:
    if is_op(node, *_WEIGHTED, *_NORMS):
        return position not in _FROZEN_INPUTS.get(node.op_type, ())
    return is_op(node, *_PER_CHANNEL) and _is_per_channel(value)


def _is_per_channel(value: ir.Value) -> bool:
    """Whether a constant has one number for each channel, and more than one channel."""
    tensor = value.const_value
    assert tensor is not None
    sizes = tensor.shape.numpy()
    return max(sizes, default=1) == math.prod(sizes) > 1


__all__ = ["trained_names"]
