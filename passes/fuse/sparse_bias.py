"""Merge the addition of one constant per output into a sparse op's bias."""

from __future__ import annotations

import onnx_ir as ir

from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import is_op, new_initializer, sole_consumer
from sparsecc.passes.fuse.conv_bias import merged_bias
from sparsecc.passes.fuse.sparse import BIAS, absorb, channel_axis, linear_nodes


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
            bias = merged_bias(node, addition, channel_axis(node), position=BIAS)
            if bias is not None:
                value = new_initializer(node, f"{node.name}.bias_merged", bias)
                absorb(node, [addition], bias=value)
                modified = True
        return modified
