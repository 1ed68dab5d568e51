"""Fold arithmetic with one constant per channel into the convolution after it.

Such arithmetic follows the activations of networks with learnable affine blocks (PP-LCNetV3).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import (
    constant,
    is_op,
    new_initializer,
    nodes_of,
    owner,
    per_channel,
    sole_consumer,
)

Array = NDArray[np.float64]


class InputScaleFolding(Pass):
    """Mul or Add with one constant per channel, then Conv, becomes the Conv alone.

    A shift passes through a convolution only without padding, which pads with zeros and not
    with the shift. With padding, x·s + t becomes (x + t/s)·s, and the scale alone is folded.
    """

    name = "input-scale-folding"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Fold into every Conv until what is before it is something else."""
        modified = False
        for conv in nodes_of(model, "Conv"):
            while _fold_one(conv):
                modified = True
        return modified


def _fold_one(conv: ir.Node) -> bool:
    weight = constant(conv.inputs[1])
    step = None if weight is None else _step_before(conv, conv, weight)
    if weight is None or step is None:
        return False
    if step.node.op_type == "Mul":
        done = _fold_scale(conv, step.x, weight, step.row)
    else:
        done = _fold_shift(conv, step, weight)
    if done:
        owner(conv).remove(step.node, safe=True)
        return True
    return step.node.op_type == "Add" and _fold_scale_before_shift(conv, step, weight)


@dataclasses.dataclass(frozen=True)
class _Step:
    """A Mul or Add of `x` and one constant per channel."""

    node: ir.Node
    x: ir.Value
    row: Array


def _step_before(reader: ir.Node, conv: ir.Node, weight: NDArray[Any]) -> _Step | None:
    """The step whose result is read by nothing but `reader`, as an input of `conv` would be."""
    channels = weight.shape[1] * conv.attributes.get_int("group", 1)
    for value in reader.inputs[: 1 if reader is conv else 2]:
        node = None if value is None else value.producer()
        if value is None or not is_op(node, "Mul", "Add") or sole_consumer(value) is not reader:
            continue
        assert node is not None
        for operand, x in zip(node.inputs, reversed(node.inputs), strict=True):
            array = constant(operand)
            row = (
                None
                if array is None
                else per_channel(array, channels, weight.ndim - 2, weight.ndim)
            )
            if row is not None and x is not None:
                return _Step(node, x, row)
    return None


def _per_input(conv: ir.Node, weight: NDArray[Any], row: Array) -> Array:
    """Weight · row over the input channels; each group has its own."""
    groups = conv.attributes.get_int("group", 1)
    by_group = weight.astype(np.float64).reshape(groups, -1, *weight.shape[1:])
    scaled = by_group * row.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
    return scaled.reshape(weight.shape)


def _fold_scale(conv: ir.Node, x: ir.Value, weight: NDArray[Any], row: Array) -> bool:
    scaled = _per_input(conv, weight, row).astype(weight.dtype)
    if not np.isfinite(scaled).all():
        return False
    conv.replace_input_with(0, x)
    conv.replace_input_with(1, new_initializer(conv, f"{conv.name}.weight_scaled", scaled))
    return True


def _fold_shift(conv: ir.Node, step: _Step, weight: NDArray[Any]) -> bool:
    bias = constant(conv.inputs[2]) if len(conv.inputs) > 2 else np.zeros(len(weight))
    padded = any(conv.attributes.get_ints("pads", ())) or "auto_pad" in conv.attributes
    if bias is None or padded:
        return False
    shift = _per_input(conv, weight, step.row).reshape(len(weight), -1).sum(1)
    merged = (bias + shift).astype(weight.dtype)
    conv.resize_inputs(3)
    conv.replace_input_with(0, step.x)
    conv.replace_input_with(2, new_initializer(conv, f"{conv.name}.bias_shifted", merged))
    return True


def _fold_scale_before_shift(conv: ir.Node, step: _Step, weight: NDArray[Any]) -> bool:
    scale = _step_before(step.node, conv, weight)
    if scale is None or scale.node.op_type != "Mul" or np.any(scale.row == 0):
        return False
    quotient = (step.row / scale.row).astype(weight.dtype)
    if not np.isfinite(quotient).all():
        return False
    value = new_initializer(
        step.node,
        f"{step.node.name}.shift_divided",
        quotient.reshape(-1, *(1,) * (weight.ndim - 2)),
    )
    if not _fold_scale(conv, step.node.outputs[0], weight, scale.row):
        return False
    for position, operand in enumerate((scale.x, value)):
        step.node.replace_input_with(position, operand)
    owner(conv).remove(scale.node, safe=True)
    return True
