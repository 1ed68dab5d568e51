"""Merge the addition of one constant per output into a sparse op's bias."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import constant, is_op, new_initializer, per_channel, sole_consumer
from sparsecc.passes.fuse.sparse import BIAS, absorb, linear_nodes


class SparseBias(Pass):
    """Sparse op + Add(constant per output) becomes the sparse op with another bias."""

    name = "sparse-bias"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Merge wherever the sparse op has no other reader."""
        modified = False
        for node in linear_nodes(model):
            addition = sole_consumer(node.outputs[0])
            if addition is None or not is_op(addition, "Add"):
                continue
            bias = _merged(node, addition)
            if bias is not None:
                value = new_initializer(node, f"{node.name}.bias_merged", bias)
                absorb(node, [addition], bias=value)
                modified = True
        return modified


def _merged(node: ir.Node, addition: ir.Node) -> NDArray[Any] | None:
    """The bias [R] plus the addend, if that is one constant per output."""
    bias = constant(node.inputs[BIAS])
    addend = next((constant(x) for x in addition.inputs if x is not node.outputs[0]), None)
    if bias is None or addend is None:
        return None
    conv = ops.parse(node.op_type).base == "SparseConv"
    row = per_channel(addend, len(bias), *((2, 4) if conv else (0, _rank(node.outputs[0]))))
    return None if row is None else (bias + row).astype(bias.dtype)


def _rank(value: ir.Value) -> int:
    """Rank of the output of a linear layer; an unknown one is at least 1."""
    return 1 if value.shape is None else len(value.shape)
