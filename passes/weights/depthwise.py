"""Gives depthwise convolutions beside sparse ones to the same library. Exact.

ONNX Runtime computes every convolution in a blocked layout, our kernels compute in NCHW. A
depthwise layer has so little arithmetic that changing the layout before and after it costs more
than the layer itself; in the library it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc import ops
from sparsecc.formats.blocks import pack_blocks
from sparsecc.passes import edit
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.weights.choose import node_bias
from sparsecc.passes.weights.pack_node import pack_node

THROUGH = ("Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Mul", "Add")
"""Element-wise ops that keep whatever layout their input has."""

Neighbours = Callable[[ir.Node], Sequence[ir.Node]]
"""What a node reads from, or what reads from it."""


class Depthwise(Pass):
    """Replaces depthwise convolutions that read from or feed a sparse convolution.

    Attributes:
        replaced: After ``call``, the names of the nodes it replaced.
    """

    name: ClassVar[str] = "depthwise"
    WHY: ClassVar[str] = "dense, in the library: no change of layout beside a sparse convolution"

    def __init__(self) -> None:
        self.replaced: list[str] = []

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Replace, from the graph's start to its end, so that chains are followed."""
        self.replaced = []
        for node in [node for node in model.graph if edit.is_op(node, "Conv")]:
            weight = edit.constant(node.inputs[1])
            if weight is None or not is_depthwise(node, weight):
                continue
            bias = node_bias(node, len(weight))
            if bias is None:
                ctx.refuse(self.name, node, "bias is not constant")
            elif not (is_fed_by_sparse(node) or is_feeding_sparse(node)):
                ctx.refuse(self.name, node, "no sparse convolution beside it")
            else:
                self.replaced.append(node.name or "")
                packed = pack_blocks(weight.transpose(0, 2, 3, 1), (1, 1), keep_zeros=True)
                pack_node(node, packed, bias)
        return bool(self.replaced)


def is_depthwise(node: ir.Node, weight: np.ndarray) -> bool:
    """Whether a convolution by `weight` has one filter for each channel, and may be packed."""
    channels = node.attributes.get_int("group", 1)
    return (
        weight.ndim == 4
        and weight.dtype == np.float32
        and weight.shape[0] == channels
        and weight.shape[1] == 1
        and channels > 1
        and "auto_pad" not in node.attributes
    )


def is_sparse_conv(node: ir.Node) -> bool:
    """Whether a node is a convolution of the library."""
    return ops.is_sparse(node) and ops.parse(node.op_type).base == "SparseConv"


def is_fed_by_sparse(node: ir.Node, through: Sequence[str] = THROUGH) -> bool:
    """Whether a node reads from a convolution of the library, ops of ``through`` looked through."""
    return reaches(node, is_sparse_conv, through, lambda each: each.predecessors())


def is_feeding_sparse(node: ir.Node, through: Sequence[str] = THROUGH) -> bool:
    """Whether a convolution of the library reads from a node, as in :func:`is_fed_by_sparse`."""
    return reaches(node, is_sparse_conv, through, lambda each: each.successors())


def reaches(
    node: ir.Node, goal: Callable[[ir.Node], bool], through: Sequence[str], step: Neighbours
) -> bool:
    """Whether steps from a node lead to a goal; they go on from ops of ``through`` alone."""
    ahead, seen = list(step(node)), set[ir.Node]()
    while ahead:
        each = ahead.pop()
        if goal(each):
            return True
        if each not in seen and edit.is_op(each, *through):
            ahead += step(each)
        seen.add(each)
    return False
