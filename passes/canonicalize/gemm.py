"""Bring Gemm into the form Y = X · W + bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import constant, new_initializer, nodes_of


class GemmNormalization(Pass):
    """Fold `alpha` into a constant weight and `beta` into a constant bias [outputs].

    A bias given as a scalar or as [1, outputs] becomes [outputs]. What is not constant stays.
    """

    name = "gemm-normalization"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Normalise every Gemm that has a constant weight."""
        modified = False
        for node in nodes_of(model, "Gemm"):
            if constant(node.inputs[1]) is not None:
                modified |= _fold_alpha(node)
                modified |= _fold_bias(node)
        return modified


def _fold_alpha(node: ir.Node) -> bool:
    alpha = node.attributes.get_float("alpha", 1.0)
    if alpha == 1.0:
        return False
    weight = constant(node.inputs[1])
    assert weight is not None, "the caller checked"
    scaled = (weight.astype(np.float64) * alpha).astype(weight.dtype)
    node.replace_input_with(1, new_initializer(node, f"{node.name}.weight_scaled", scaled))
    node.attributes["alpha"] = ir.AttrFloat32("alpha", 1.0)
    return True


def _fold_bias(node: ir.Node) -> bool:
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    weight = node.inputs[1]
    if bias is None or weight is None or weight.shape is None:
        return False
    outputs = weight.shape[0 if node.attributes.get_int("transB", 0) else 1]
    beta = node.attributes.get_float("beta", 1.0)
    if (
        not isinstance(outputs, int)
        or (beta == 1.0 and bias.shape == (outputs,))
        or bias.size not in (1, outputs)
    ):
        return False
    if bias.ndim == 2 and bias.shape[0] != 1:
        return False
    row = np.broadcast_to(bias.reshape(-1), (outputs,)).astype(np.float64) * beta
    folded = row.astype(bias.dtype)
    node.replace_input_with(2, new_initializer(node, f"{node.name}.bias_scaled", folded))
    node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    return True
