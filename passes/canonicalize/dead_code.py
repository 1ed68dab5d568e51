"""Remove what no output depends on."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from sparsecc.passes.base import Context, Pass, apply


class DeadCode(Pass):
    """Remove nodes, initializers and functions that nothing reads; inputs and outputs stay."""

    name = "dead-code"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Remove nodes first: they keep initializers and functions alive."""
        nodes = apply(common.RemoveUnusedNodesPass(), self.name, model, ctx)
        unused = common.RemoveUnusedFunctionsPass()  # type: ignore[no-untyped-call]
        functions = apply(unused, self.name, model, ctx)
        return nodes or functions
