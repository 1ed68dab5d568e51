"""Compute at compile time what does not depend on the inputs."""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from sparsecc.passes.base import Context, Pass, apply
from sparsecc.passes.edit import constant, is_op, new_initializer, nodes_of, owner

# Ops that prepare a weight (transposed, re-parametrised, cast), or say which keys a query sees, and
# are folded at any size up to the limit; onnxscript's own limits are meant for shape arithmetic.
_FOLDED = """
    Abs And Equal Greater GreaterOrEqual Less LessOrEqual Not Or Trilu
    Add Cast Concat Div Flatten Mul Neg Pow ReduceL2 ReduceSum Reshape Slice Sqrt Squeeze Sub
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
        parted = _part_constants(model)
        folded = apply(fold, self.name, model, ctx)
        lifted = apply(lift, self.name, model, ctx)
        _declare_folded_shapes(model)
        return parted or folded or lifted


def _part_constants(model: ir.Model) -> bool:
    """Split constants, which onnxscript does not: packed weights of queries, keys and values."""
    modified = False
    for node in nodes_of(model, "Split"):
        array = constant(node.inputs[0])
        second = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        sizes = node.attributes.get_ints("split") if second is None else second.tolist()
        if array is None or sizes is None or array.size > _LARGEST_INPUT:
            continue
        if any(output.is_graph_output() for output in node.outputs):
            continue
        axis = node.attributes.get_int("axis", 0)
        parts = np.split(array, np.cumsum(sizes)[:-1], axis)
        for output, part in zip(node.outputs, parts, strict=True):
            new = new_initializer(node, f"{output.name}.part", np.ascontiguousarray(part))
            output.replace_all_uses_with(new)
        owner(node).remove(node, safe=True)
        modified = True
    return modified


def _declare_folded_shapes(model: ir.Model) -> None:
    """Folded values keep the shape that was inferred before, which may be symbolic."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.shape = ir.Shape(value.const_value.shape.numpy())


def _should_fold(node: ir.Node) -> bool | None:
    """True: fold whatever the size; None: by onnxscript's own limits."""
    if not is_op(node, *_FOLDED.split()):
        return None
    sizes = [value.const_value.size for value in node.inputs if value and value.const_value]
    return True if sum(sizes) <= _LARGEST_INPUT else None
