"""Fold arithmetic with one constant per channel into the convolution after it.

Such arithmetic follows the activations of networks with learnable affine blocks (PP-LCNetV3).
"""

from __future__ import annotations

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
    step = None if weight is None else _step_before(conv, weight)
    if weight is None or step is None:
        return False
    node, x, row = step
    if node.op_type == "Mul":
        return _fold_scale(conv, x, weight, row)
    return _fold_shift(conv, x, weight, row) or _fold_scale_before_shift(conv, node, x, weight, row)


def _step_before(node: ir.Node, weight: NDArray[Any]) -> tuple[ir.Node, ir.Value, Array] | None:
    """The Mul or Add that nothing but `node` reads: it, its other operand, its constant."""
    output = node.inputs[0]
    step = None if output is None else output.producer()
    if output is None or step is None or sole_consumer(output) is not node:
        return None
    rows = [_row(step, position, node, weight) for position in (0, 1)]
    for row, x in zip(rows, reversed(step.inputs), strict=False):
        if row is not None and x is not None:
            return step, x, row
    return None


def _row(step: ir.Node, position: int, node: ir.Node, weight: NDArray[Any]) -> Array | None:
    """The constant per channel that `step` takes at `position`, if that is what it is."""
    array = constant(step.inputs[position]) if is_op(step, "Mul", "Add") else None
    if array is None:
        return None
    groups = node.attributes.get_int("group", 1) if is_op(node, "Conv") else 1
    channels = weight.shape[1] * groups
    return per_channel(array, channels, weight.ndim - 2, weight.ndim)


def _per_input(conv: ir.Node, weight: NDArray[Any], row: Array) -> Array:
    """weight · row over the input channels; each group has its own."""
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


def _fold_shift(conv: ir.Node, x: ir.Value, weight: NDArray[Any], row: Array) -> bool:
    bias = constant(conv.inputs[2]) if len(conv.inputs) > 2 else np.zeros(len(weight))
    padded = any(conv.attributes.get_ints("pads", ())) or "auto_pad" in conv.attributes
    if bias is None or padded:
        return False
    shift = _per_input(conv, weight, row).reshape(len(weight), -1).sum(1)
    merged = (bias + shift).astype(weight.dtype)
    conv.resize_inputs(3)
    conv.replace_input_with(0, x)
    conv.replace_input_with(2, new_initializer(conv, f"{conv.name}.bias_shifted", merged))
    return True


def _fold_scale_before_shift(
    conv: ir.Node, addition: ir.Node, x: ir.Value, weight: NDArray[Any], shift: Array
) -> bool:
    before = x.producer()
    if not is_op(before, "Mul") or before is None or sole_consumer(x) is not addition:
        return False
    pairs = zip(before.inputs, reversed(before.inputs), strict=True)
    found = next(((constant(s), z) for s, z in pairs if constant(s) is not None), None)
    if found is None or found[0] is None or found[1] is None:
        return False
    groups = conv.attributes.get_int("group", 1)
    row = per_channel(found[0], weight.shape[1] * groups, weight.ndim - 2, weight.ndim)
    if row is None or np.any(row == 0):
        return False
    quotient = (shift / row).astype(weight.dtype).reshape(-1, *(1,) * (weight.ndim - 2))
    value = new_initializer(addition, f"{addition.name}.shift_divided", quotient)
    output = conv.inputs[0]
    if output is None or not _fold_scale(conv, output, weight, row):
        return False
    for position, operand in enumerate((found[1], value)):
        addition.replace_input_with(position, operand)
    return True
