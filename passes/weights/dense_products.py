"""Gives matrix products without zeros to the library where sparse ones stand beside them. Exact.

In a region such a product keeps its tokens in the lanes like its neighbours, takes its bias, its
activation and its residual along, and multiplies as fast as ONNX Runtime does.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc import ops
from sparsecc.formats.blocks import pack_blocks
from sparsecc.passes import edit
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.weights.choose import has_few_rows, node_bias, node_work, why_not_in_library
from sparsecc.passes.weights.pack_node import pack_node
from sparsecc.targets import Target

BETWEEN = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Erf", "Tanh", "Sigmoid", "Relu", "Gelu"}
    | {"LayerNormalization", "ReduceMean", "Softmax", "MatMul", "Gemm", "Gather", "Concat"}
    | {"Reshape", "Transpose", "Split", "Slice", "Squeeze", "Unsqueeze"}
)
"""What may stand between two products of one region."""
BLOCK = (16, 1)
"""Of a weight without zeros."""


class DenseProducts(Pass):
    """Replaces products by a constant among whose neighbours is a sparse one.

    Attributes:
        replaced: After ``call``, the names of the nodes it replaced.
    """

    name: ClassVar[str] = "dense-products"
    WHY: ClassVar[str] = "dense, in the library: sparse products stand beside it"

    def __init__(self, target: Target) -> None:
        self.target = target
        self.replaced: list[str] = []

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Replace where the estimate in a region is no slower than ONNX Runtime."""
        self.replaced = []
        beside = _beside_sparse(model.graph)
        for node in [node for node in model.graph if node in beside]:
            weight = product_weight(node)
            if weight is None or has_few_rows(node.inputs[0]):
                continue
            bias = node_bias(node, len(weight))
            if bias is None:
                ctx.refuse(self.name, node, "bias is not constant")
            elif why := self._slower(node, weight):
                ctx.refuse(self.name, node, why)
            else:
                self.replaced.append(node.name or "")
                pack_node(node, pack_blocks(weight, BLOCK, keep_zeros=True), bias)
        return bool(self.replaced)

    def _slower(self, node: ir.Node, weight: np.ndarray) -> str:
        """Why the product is better left to ONNX Runtime, or ""."""
        work = node_work(node, weight.shape[0], weight.shape[1], 1)
        return why_not_in_library(work, BLOCK, self.target, work.activation_bytes)


def product_weight(node: ir.Node) -> np.ndarray | None:
    """The weight ``[R, K]`` of a product by a float32 matrix, or None."""
    x, array = node.inputs[0], edit.constant(node.inputs[1])
    scales = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    if x is None or array is None or array.ndim != 2 or array.dtype != np.float32:
        return None
    if (
        x.dtype != ir.DataType.FLOAT
        or scales != [1.0, 1.0]
        or node.attributes.get_int("transA", 0) != 0
    ):
        return None
    return np.ascontiguousarray(array if node.attributes.get_int("transB", 0) else array.T)


def _beside_sparse(graph: ir.Graph) -> set[ir.Node]:
    """Products with a sparse one in reach over nodes that a region may hold."""
    todo = [node for node in graph if is_sparse_product(node)]
    seen = set(todo)
    while todo:
        node = todo.pop()
        before = [value.producer() for value in node.inputs if value is not None]
        after = [user for value in node.outputs for user in value.consumers()]
        for other in (*before, *after):
            if other is None or other in seen or other.graph is not graph:
                continue
            if edit.is_op(other, *BETWEEN) or is_sparse_product(other):
                seen.add(other)
                todo.append(other)
    return {node for node in seen if edit.is_op(node, "MatMul", "Gemm")}


def is_sparse_product(node: ir.Node) -> bool:
    """Whether a node is a product by a packed weight."""
    return ops.is_sparse(node) and ops.parse(node.op_type).base == "SparseMatMul"
