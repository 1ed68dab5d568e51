"""What a drawing of a graph needs to know of its nodes."""

from __future__ import annotations

import onnx_ir as ir

from sparsecc import ops
from sparsecc.manifest import NodeEntry

_DATA = "Constant"


def nodes_of(model: ir.Model) -> list[NodeEntry]:
    """The nodes of the main graph in its order, those of a region where its call is.

    Constants are data, and left out.
    """
    regions = ops.region_functions(model)
    entries = []
    for node in model.graph:
        body = regions.get(node.op_identifier())
        region = node.op_type if body else ""
        entries += [
            NodeEntry(name=str(each.name), op=_op(each), region=region)
            for each in (body or [node])
            if each.op_type != _DATA
        ]
    return entries


def _op(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


__all__ = ["nodes_of"]
