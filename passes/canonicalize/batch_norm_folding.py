"""Fold BatchNormalization into the convolution or linear layer before it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsecc.passes.base import Context, Pass
from sparsecc.passes.canonicalize.affine import Affine, fold
from sparsecc.passes.edit import constant, is_op, nodes_of, sole_consumer

_FOLDABLE = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class BatchNormFolding(Pass):
    """BatchNormalization after a layer becomes the layer's weight and bias."""

    name = "batch-norm-folding"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Fold every BatchNormalization that follows a foldable layer."""
        modified = False
        for norm in nodes_of(model, "BatchNormalization"):
            producer = norm.inputs[0].producer() if norm.inputs[0] is not None else None
            if not is_op(producer, *_FOLDABLE, "Add"):
                continue
            reason = _fold(norm)
            if reason is None:
                modified = True
            else:
                ctx.refuse(self.name, norm, reason)
        return modified


def _fold(norm: ir.Node) -> str | None:
    """Fold one node; returns why not if it stays."""
    match = _layer_before(norm)
    if isinstance(match, str):
        return match
    layer, addition = match
    affine = _affine_of(norm)
    return affine if isinstance(affine, str) else fold(affine, layer, norm, addition)


def _layer_before(norm: ir.Node) -> tuple[ir.Node, ir.Node | None] | str:
    """The layer and, for MatMul, the Add of its bias; or why there is none to fold into."""
    if norm.attributes.get_int("training_mode", 0) or any(o.uses() for o in norm.outputs[1:]):
        return "it is in training mode"
    before = norm.inputs[0]
    assert before is not None
    if sole_consumer(before) is None:
        return "the layer before has other readers"
    layer = before.producer()
    assert layer is not None
    addition = None
    if is_op(layer, "Add"):
        addition = layer
        product = next((v for v in addition.inputs if v and is_op(v.producer(), "MatMul")), None)
        if product is None:
            return "the layer before is an addition, not a linear layer with a bias"
        if sole_consumer(product) is None:
            return "the layer before has other readers"
        layer = product.producer()
        assert layer is not None
    rank = None if before.shape is None else len(before.shape)
    if layer.op_type == "MatMul" and rank != 2:
        return "the channels are not the last of two dimensions"
    return layer, addition


def _affine_of(norm: ir.Node) -> Affine | str:
    parts = [constant(value) for value in norm.inputs[1:5]]
    if len(parts) != 4 or any(part is None for part in parts):
        return "its scale, bias, mean and variance are not all constant"
    scale, bias, mean, variance = (np.asarray(part, np.float64) for part in parts)
    epsilon = norm.attributes.get_float("epsilon", 1e-5)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = scale / np.sqrt(variance + epsilon)
        return Affine(factor, bias - mean * factor)
