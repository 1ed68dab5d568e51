"""Compute once what is computed twice."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from sparsecc.passes.base import Context, Pass, apply


class CommonSubexpressions(Pass):
    """Merge nodes of one op with the same inputs and attributes, such as the masks of attention."""

    name = "common-subexpressions"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Merge in the main graph; subgraphs are left alone."""
        return apply(common.CommonSubexpressionEliminationPass(), self.name, model, ctx)
