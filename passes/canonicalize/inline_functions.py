"""Inline model-local functions, so that the layers inside them can be seen."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from sparsecc import ops
from sparsecc.passes.base import Context, Pass, apply


class InlineFunctions(Pass):
    """Replace calls of the model's own functions by their bodies; sparsecc ops stay calls."""

    name = "inline-functions"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Inline every function; one that cannot be inlined stays as it is, with the reason."""
        if not model.functions:
            return False
        inline = common.InlinePass(lambda function: function.domain != ops.DOMAIN)
        return apply(inline, self.name, model, ctx)
