"""Merge the addition of a residual into the sparse op before it."""

from __future__ import annotations

import onnx_ir as ir

from sparsecc import ops
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import constant, nodes_of, sole_consumer
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.sparse import absorb


class ResidualAdd(Pass):
    """Add(sparse op, other) of equal shapes becomes the `_add` variant.

    The sparse op must have no other reader, so `other` can not depend on it and no cycle can
    arise. Where both operands are sparse, the one that runs later takes the other.
    """

    name = "residual-add"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Merge every addition that has a sparse operand able to take it."""
        shapes = Shapes(model)
        order = {node: place for place, node in enumerate(model.graph.all_nodes())}
        modified = False
        for addition in nodes_of(model, "Add"):
            takers = [value.producer() for value in addition.inputs if value and _can_take(value)]
            if not takers:
                continue
            node = max((node for node in takers if node is not None), key=order.__getitem__)
            output = node.outputs[0]
            other = next((value for value in addition.inputs if value is not output), None)
            if other is None or constant(other) is not None:
                continue  # twice itself, or a constant: no residual
            if not shapes.equal(output, other):
                reason = f"the addend {other.name!r} is not known to have the same shape"
                ctx.refuse(self.name, node, reason)
                continue
            merged = absorb(node, [addition], residual=other)
            order[merged] = order[addition]
            shapes.replaced(addition.outputs[0], merged.outputs[0])
            modified = True
        return modified


def _can_take(value: ir.Value) -> bool:
    node = value.producer()
    if node is None or not ops.is_sparse(node) or sole_consumer(value) is None:
        return False
    variant = ops.parse(node.op_type)
    return not variant.residual and variant.activation == "none"
