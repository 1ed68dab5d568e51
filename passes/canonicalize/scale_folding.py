"""Fold arithmetic with one constant per channel into the convolution or Gemm before it."""

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
            layer = _layer_before(node)
            affine = None if layer is None else _affine_of(node, layer)
            if layer is None or affine is None:
                continue
            reason = fold(affine, layer, node)
            if reason is None:
                modified = True
            else:
                ctx.refuse(self.name, node, reason)
        return modified


def _layer_before(node: ir.Node) -> ir.Node | None:
    """The layer whose output nothing but `node` reads; Sub and Div must read it first."""
    operands = node.inputs if node.op_type in ("Add", "Mul") else node.inputs[:1]
    for value in operands:
        layer = None if value is None else value.producer()
        if value is not None and is_op(layer, *_LAYERS) and sole_consumer(value) is node:
            return layer
    return None


def _affine_of(node: ir.Node, layer: ir.Node) -> Affine | None:
    """What `node` does to the channels of `layer`, if it treats each channel alike."""
    weight = layer.inputs[1]
    operand = next((constant(x) for x in node.inputs if x is not layer.outputs[0]), None)
    if operand is None or weight is None or weight.shape is None or not weight.shape.is_static():
        return None
    rank = 2 if layer.op_type == "Gemm" else len(weight.shape)
    channels = channel_count(layer, tuple(weight.shape.numpy()))
    row = per_channel(operand, channels, rank - 2, rank)
    if row is None:
        return None
    ones, zeros = np.ones(channels), np.zeros(channels)
    if node.op_type in ("Add", "Sub"):
        return Affine(ones, row if node.op_type == "Add" else -row)
    with np.errstate(divide="ignore"):
        return Affine(row if node.op_type == "Mul" else 1 / row, zeros)
