"""Remove nodes that hand their input on unchanged."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from sparsecc.passes.base import Context, Pass, apply
from sparsecc.passes.edit import constant, nodes_of, replace


class IdentityElimination(Pass):
    """Remove Identity and, as nothing trains here, Dropout."""

    name = "identity-elimination"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Turn Dropout into Identity, then let onnx_ir remove every Identity it can."""
        idle = [node for node in nodes_of(model, "Dropout") if _is_idle(node)]
        for node in idle:
            replace([node], [ir.Node("", "Identity", node.inputs[:1], name=node.name)], at=node)
        return apply(common.IdentityEliminationPass(), self.name, model, ctx) or bool(idle)


def _is_idle(node: ir.Node) -> bool:
    """Whether a Dropout neither trains nor has its mask read."""
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None:
        flag = constant(training)
        if flag is None or bool(flag):
            return False
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    return mask is None or not (mask.uses() or mask.is_graph_output())
