"""What the fusions into sparse ops have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from sparsecc import ops
from sparsecc.passes.edit import replace

BIAS = 5
"""Position of the bias among a sparse node's inputs: after X and the packed weight."""


def linear_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Sparse nodes without an activation, which alone can take more arithmetic; a snapshot."""
    for node in list(model.graph.all_nodes()):
        sparse = node.graph is not None and ops.is_sparse(node)
        if sparse and ops.parse(node.op_type).activation == "none":
            yield node


def absorb(
    node: ir.Node,
    others: Sequence[ir.Node],
    *,
    bias: ir.Value | None = None,
    residual: ir.Value | None = None,
    activation: str | None = None,
) -> ir.Node:
    """Replace a sparse node and the nodes after it by one sparse node of another variant.

    Args:
        node: The sparse node.
        others: Nodes that read nothing but its output, constants, `residual` and one another;
            the output of the last one is the output of the new node.
        bias: Replaces the bias.
        residual: Becomes the residual.
        activation: Becomes the activation.

    Returns:
        The new node, at the place of the last old one.
    """
    old = ops.parse(node.op_type)
    new = dataclasses.replace(
        old,
        residual=old.residual or residual is not None,
        activation=activation or old.activation,
    )
    inputs = list(node.inputs)
    if bias is not None:
        inputs[BIAS] = bias
    if residual is not None:
        inputs.append(residual)
    merged = ir.Node(ops.DOMAIN, new.op_type, inputs, node.attributes.values(), name=node.name)
    replace([node, *others], [merged], at=others[-1])
    return merged
