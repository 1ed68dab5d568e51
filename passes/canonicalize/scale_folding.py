"""Fold arithmetic with one constant per channel into the layer before it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsecc.passes.base import Context, Pass
from sparsecc.passes.canonicalize.affine import Affine, channel_count, fold
from sparsecc.passes.edit import constant, is_op, nodes_of, per_channel, sole_consumer

_LAYERS = ("Conv", "ConvTranspose", "Gemm")


class ScaleFolding(Pass):
    """Layer + Add, Sub, Mul or Div with one constant per channel becomes the layer alone."""

    name = "scale-folding"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Fold in graph order, so that a whole chain goes into its layer."""
        modified = False
        for node in nodes_of(model, "Add", "Sub", "Mul", "Div"):
            before = _layer_before(node)
            affine = None if before is None else _affine_of(node, *before)
            if before is None or affine is None:
                continue
            layer, addition = before
            reason = fold(affine, layer, node, addition)
            if reason is None:
                modified = True
            else:
                ctx.refuse(self.name, node, reason)
        return modified


def _layer_before(node: ir.Node) -> tuple[ir.Node, ir.Node | None] | None:
    """The layer that nothing but `node` reads, and the sum of its bias between, if there is one.

    Sub and Div must read it first.
    """
    operands = node.inputs if node.op_type in ("Add", "Mul") else node.inputs[:1]
    for value in operands:
        layer = None if value is None else value.producer()
        if value is None or layer is None or sole_consumer(value) is not node:
            continue
        if is_op(layer, *_LAYERS):
            return layer, None
        if node.op_type in ("Mul", "Div") and (product := _product_before(layer)) is not None:
            return product, layer if layer is not product else None
    return None


def _product_before(last: ir.Node) -> ir.Node | None:
    """The product by a matrix that `last` is, or adds the bias of."""
    if is_op(last, "MatMul"):
        weight = constant(last.inputs[1])
        return last if weight is not None and weight.ndim == 2 else None
    made = [x for x in last.inputs if x is not None and constant(x) is None]
    if not is_op(last, "Add") or len(made) != 1 or sole_consumer(made[0]) is not last:
        return None
    product = made[0].producer()
    return _product_before(product) if product is not None and is_op(product, "MatMul") else None


def _affine_of(node: ir.Node, layer: ir.Node, addition: ir.Node | None) -> Affine | None:
    """What `node` does to the channels of `layer`, if it treats each channel alike."""
    weight, read = layer.inputs[1], (addition or layer).outputs[0]
    operand = next((constant(x) for x in node.inputs if x is not read), None)
    if operand is None or weight is None or weight.shape is None or not weight.shape.is_static():
        return None
    channels = channel_count(layer, tuple(weight.shape.numpy()))
    if layer.op_type == "MatMul":
        row = per_channel(operand, channels, 0, len(read.shape) if read.shape is not None else 1)
    else:
        rank = 2 if layer.op_type == "Gemm" else len(weight.shape)
        row = per_channel(operand, channels, rank - 2, rank)
    if row is None:
        return None
    ones, zeros = np.ones(channels), np.zeros(channels)
    if node.op_type in ("Add", "Sub"):
        return Affine(ones, row if node.op_type == "Add" else -row)
    with np.errstate(divide="ignore"):
        return Affine(row if node.op_type == "Mul" else 1 / row, zeros)
