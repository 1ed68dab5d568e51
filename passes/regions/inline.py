"""Takes regions apart again: their nodes where the calls were. Exact."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from sparsecc import ops
from sparsecc.passes.base import Context, Pass


class InlineRegions(Pass):
    """Every call of a region becomes the nodes of its body; sparse ops stay calls."""

    name: ClassVar[str] = "inline-regions"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Inline every region that has a body."""
        regions = set(ops.region_functions(model))
        if regions:
            common.InlinePass(lambda function: function.identifier() in regions)(model)
        return bool(regions)
