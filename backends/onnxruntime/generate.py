"""Which layers of a model get machine code of their own, and for what pattern of zeros."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from sparsecc import ops
from sparsecc.backends.codegen.code_table import Pattern
from sparsecc.cost import roofline
from sparsecc.targets import Target

MAX_WEIGHTS = 80_000_000
"""Non-zeros of a model that code is generated for, about 9 bytes each: a library of 720 MB, while
relative addresses reach 2 GB. Weights beyond run through the kernel that reads positions as data.
"""


def patterns(model: ir.Model, target: Target) -> Iterator[Pattern]:
    """Patterns of zeros, layer by layer, that generated code pays for.

    Args:
        model: A rewritten model; sparse nodes in bodies of functions count too.
        target: What it is compiled for.
    """
    left = MAX_WEIGHTS
    for node in _sparse_nodes(model):
        group = node.attributes.get_int("group", 1)
        weight = ops.read_packed(node)
        points = _points(node)
        if not roofline.generates(weight.block, group, points, target) or len(weight.index) > left:
            continue
        left -= len(weight.index)
        yield Pattern(weight.index, weight.shape[0], math.prod(weight.shape[1:]))


def _sparse_nodes(model: ir.Model) -> Iterator[ir.Node]:
    return (node for node in model.graph.all_nodes() if ops.is_sparse(node))


def _points(node: ir.Node) -> int | None:
    """Tokens of a matmul, or None where that is not known or it is a convolution."""
    x = node.inputs[0]
    if ops.parse(node.op_type).base == "SparseConv" or x is None or x.shape is None:
        return None
    dims = [dim for dim in x.shape[:-1] if isinstance(dim, int)]
    return math.prod(dims) if len(dims) == len(x.shape) - 1 else None
