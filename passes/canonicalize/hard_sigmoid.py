"""Bring hard sigmoids to the one form that kernels have: clip(x / 6 + 1/2, 0, 1)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import (
    constant,
    is_op,
    new_initializer,
    nodes_of,
    replace,
    scalar,
    sole_consumer,
)

_SLOPE, _MIDDLE = 1 / 6, 1 / 2
_ROUNDING = 1e-6
"""Relative: float32 constants such as 0.16666667 are allowed theirs."""
_LAYERS = ("Conv", "Gemm")


class HardSigmoidForm(Pass):
    """Clip to [0, h], then division by h, is a HardSigmoid; one of any slope a layer takes over.

    Frameworks differ in the slope (1/5, 1/6), and some write relu6(x + 3) / 6. Behind a layer,
    slope and middle become a product and a sum with constants, which scale folding gives to it.
    """

    name = "hard-sigmoid"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Rewrite the divisions first: what they become may need another slope."""
        divided = [_as_hard_sigmoid(node) for node in nodes_of(model, "Div", "Mul")]
        moved = [_move_slope(node) for node in nodes_of(model, "HardSigmoid")]
        return any(divided) or any(moved)


def _as_hard_sigmoid(node: ir.Node) -> bool:
    clip, factor = _clip_and_factor(node)
    if clip is None or sole_consumer(clip.outputs[0]) is not node or not _is_float(clip.inputs[0]):
        return False
    low, high = (scalar(value) for value in (*clip.inputs[1:], None, None)[:2])
    if low != 0 or not high or abs(factor * high - 1) > _ROUNDING:
        return False
    replace([clip, node], [_hard_sigmoid(clip.inputs[0], factor, 0.0, node.name)], at=node)
    return True


def _clip_and_factor(node: ir.Node) -> tuple[ir.Node | None, float]:
    """The Clip that a Div or Mul reads, and what it is multiplied by."""
    for at, value in enumerate(node.inputs[:1] if node.op_type == "Div" else node.inputs):
        clip, other = value.producer() if value is not None else None, scalar(node.inputs[1 - at])
        if is_op(clip, "Clip") and other:
            return clip, 1 / other if node.op_type == "Div" else other
    return None, 0.0


def _move_slope(node: ir.Node) -> bool:
    slope, middle = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    x = node.inputs[0]
    factor, shift = slope / _SLOPE, (middle - _MIDDLE) / _SLOPE
    if x is None or not _takes_over(x, node) or max(abs(factor - 1), abs(shift)) <= _ROUNDING:
        return False
    new = []
    for op_type, number in (("Mul", factor), ("Add", shift)):
        name = f"{node.name}.{op_type.lower()}"
        operand = new_initializer(node, name, np.array([number], np.float32))
        y = ir.Value(name=f"{name}.y", type=x.type, shape=x.shape)
        new.append(ir.Node("", op_type, [x, operand], outputs=[y], name=name))
        x = y
    replace([node], [*new, _hard_sigmoid(x, _SLOPE, _MIDDLE, node.name)], at=node)
    return True


def _takes_over(value: ir.Value, reader: ir.Node) -> bool:
    """Whether a layer with constant weights, and arithmetic that it takes too, makes a value.

    Nothing but the reader may need the value.
    """
    maker = value.producer()
    if maker is None or sole_consumer(value) is not reader or not _is_float(value):
        return False
    fixed = [each is None or constant(each) is not None for each in maker.inputs]
    if is_op(maker, *_LAYERS):
        return all(fixed[1:])
    if not is_op(maker, "Add", "Mul") or fixed.count(False) != 1:
        return False
    inner = maker.inputs[fixed.index(False)]
    return inner is not None and _takes_over(inner, maker)


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _hard_sigmoid(x: ir.Value | None, slope: float, middle: float, name: str | None) -> ir.Node:
    attributes = [ir.AttrFloat32("alpha", slope), ir.AttrFloat32("beta", middle)]
    return ir.Node("", "HardSigmoid", [x], attributes, name=name)
