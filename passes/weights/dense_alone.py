"""Gives every layer without zeros to the library where there is nothing else to run it. Exact.

An artifact without ONNX Runtime has no other kernels: a dense layer is a packed one that keeps all
its blocks.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc import ops
from sparsecc.cost.model import cost_model
from sparsecc.formats.blocks import pack_blocks
from sparsecc.passes import edit
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.weights.choose import node_bias, node_work
from sparsecc.passes.weights.dense_products import product_weight
from sparsecc.passes.weights.pack_node import pack_node
from sparsecc.targets import Target

_IMAGE = 4


class DenseAlone(Pass):
    """Replaces every convolution of images and every product by a constant.

    Products of few rows too, although a step reads their weight as it is (``regions/tokens.py``):
    packed they are as fast, nothing has to be turned when the model is made, activations join them,
    and a module that needs no such step is smaller.

    Attributes:
        replaced: After ``call``, the names of the nodes it replaced.
    """

    name: ClassVar[str] = "dense-alone"
    WHY: ClassVar[str] = "dense, in the library: there is no other runtime"

    def __init__(self, target: Target) -> None:
        self.target = target
        self.replaced: list[str] = []

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Replace all that the library can compute."""
        self.replaced = []
        for node in [node for node in model.graph if edit.is_op(node, "Conv", "MatMul", "Gemm")]:
            weight = _conv_weight(node) if node.op_type == "Conv" else product_weight(node)
            if weight is None:
                continue
            bias = node_bias(node, len(weight))
            if bias is None:
                ctx.refuse(self.name, node, "bias is not constant")
                continue
            groups = node.attributes.get_int("group", 1)
            work = node_work(node, len(weight), weight[0].size, groups)
            block, _ = cost_model(self.target).packed_whole(work)
            self.replaced.append(node.name or "")
            pack_node(node, pack_blocks(weight, block, keep_zeros=True), bias)
        if self.replaced:
            model.opset_imports[ops.DOMAIN] = ops.VERSION
        return bool(self.replaced)


def _conv_weight(node: ir.Node) -> np.ndarray | None:
    """The weight ``[R, kh, kw, I/group]`` of a convolution of images, or None."""
    x, array = node.inputs[0], edit.constant(node.inputs[1])
    if x is None or x.dtype != ir.DataType.FLOAT or "auto_pad" in node.attributes:
        return None
    if array is None or array.ndim != _IMAGE or array.dtype != np.float32:
        return None
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))
