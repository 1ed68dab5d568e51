"""Compute at compile time what does not depend on the inputs."""

from __future__ import annotations

import functools

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from sparsecc.passes.base import Context, Pass, apply
from sparsecc.passes.edit import is_op

# Ops that prepare a weight (transposed, re-parametrised, cast) and are folded at any size up to
# the limit; onnxscript's own limits are meant for shape arithmetic.
_PREPARES_WEIGHTS = """
    Add Cast Concat Div Flatten Mul Neg Pow ReduceL2 ReduceSum Reshape Slice Split Sqrt Squeeze Sub
    Transpose Unsqueeze
"""
_LARGEST_INPUT = 1 << 26
"""Elements."""


class ConstantFolding(Pass):
    """Fold constant subexpressions and turn every Constant node into an initializer.

    Quantised weights stay behind their DequantizeLinear, and no constant grows the model.
    """

    name = "constant-folding"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Fold with onnxscript; shapes come from the shape inference pass that ran before."""
        fold = functools.partial(optimizer.fold_constants, should_fold=_should_fold)
        lift = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
        folded = apply(fold, self.name, model, ctx)
        lifted = apply(lift, self.name, model, ctx)
        _declare_folded_shapes(model)
        return folded or lifted


def _declare_folded_shapes(model: ir.Model) -> None:
    """Folded values keep the shape that was inferred before, which may be symbolic."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.shape = ir.Shape(value.const_value.shape.numpy())


def _should_fold(node: ir.Node) -> bool | None:
    """True: fold whatever the size; None: by onnxscript's own limits."""
    if not is_op(node, *_PREPARES_WEIGHTS.split()):
        return None
    sizes = [value.const_value.size for value in node.inputs if value and value.const_value]
    return True if sum(sizes) <= _LARGEST_INPUT else None
