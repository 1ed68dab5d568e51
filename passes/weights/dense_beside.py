"""Gives convolutions without zeros to the library too where sparse ones stand beside them. Exact.

ONNX Runtime computes a convolution in a layout of its own; between two convolutions of the library
that means two changes of layout, which a region does without.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.cost.chains import streamed
from sparsecc.formats.blocks import Block, pack_blocks
from sparsecc.passes import edit
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.weights.choose import (
    node_bias,
    node_work,
    packed_work,
    why_not_in_library,
)
from sparsecc.passes.weights.dense_products import is_sparse_product
from sparsecc.passes.weights.depthwise import (
    THROUGH,
    Depthwise,
    is_fed_by_sparse,
    is_feeding_sparse,
    is_sparse_conv,
    reaches,
)
from sparsecc.passes.weights.pack_node import pack_node
from sparsecc.targets import Target

STEPS_BETWEEN = (*THROUGH, "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean")
"""What may stand between two convolutions of one region."""
TO_TOKENS = ("Reshape", "Flatten", "Transpose", "Concat", "Add", "LayerNormalization")
"""What makes tokens of an image."""
HEIGHTS = (16, 8, 4)
"""Rows of the blocks that a weight without zeros is packed in, the best first."""


class DenseBeside(Pass):
    """Replaces ordinary convolutions that read from or feed a convolution of the library.

    Attributes:
        replaced: After ``call``, the names of the nodes it replaced.
    """

    name: ClassVar[str] = "dense-beside"
    WHY: ClassVar[str] = Depthwise.WHY

    def __init__(self, target: Target) -> None:
        self.target = target
        self.replaced: list[str] = []

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Replace, from the graph's end to its start, so that what feeds a chain joins it."""
        self.replaced = []
        for node in reversed([node for node in model.graph if edit.is_op(node, "Conv")]):
            weight = edit.constant(node.inputs[1])
            if weight is None or not _is_ordinary(node, weight):
                continue
            fed = is_fed_by_sparse(node, STEPS_BETWEEN)
            feeding = is_feeding_sparse(node, STEPS_BETWEEN) or _feeds_tokens(node)
            bias, block = node_bias(node, len(weight)), _block(node, len(weight))
            if bias is None:
                ctx.refuse(self.name, node, "bias is not constant")
            elif block is None:
                ctx.refuse(self.name, node, f"outputs are not a multiple of {HEIGHTS[-1]}")
            elif not (fed or feeding):
                ctx.refuse(self.name, node, "no sparse convolution beside it")
            elif why := self._slower(node, weight, block, fed=fed, feeding=feeding):
                ctx.refuse(self.name, node, why)
            else:
                self.replaced.append(node.name or "")
                packed = pack_blocks(weight.transpose(0, 2, 3, 1), block, keep_zeros=True)
                pack_node(node, packed, bias)
        return bool(self.replaced)

    def _slower(
        self, node: ir.Node, weight: np.ndarray, block: Block, *, fed: bool, feeding: bool
    ) -> str:
        """Why the layer is better left to ONNX Runtime, or ""."""
        work = node_work(node, len(weight), weight[0].size, 1)
        edges = 4 * (fed * work.input_elements + feeding * work.rows * work.points)
        readers = [ahead for ahead in _readers(node) if is_sparse_conv(ahead)]
        chain = [work, *map(packed_work, readers)] if len(readers) == 1 else []
        return why_not_in_library(work, block, self.target, edges, streamed(chain))


def _readers(node: ir.Node) -> list[ir.Node]:
    """What reads a node's output, activations of it looked through."""
    found = list(node.successors())
    while len(found) == 1 and edit.is_op(found[0], *THROUGH):
        found = list(found[0].successors())
    return found


def _feeds_tokens(node: ir.Node) -> bool:
    """Whether the pixels of a convolution are tokens of a product in the library."""
    return reaches(node, is_sparse_product, TO_TOKENS, lambda each: each.successors())


def _is_ordinary(node: ir.Node, weight: np.ndarray) -> bool:
    return (
        weight.ndim == 4
        and weight.dtype == np.float32
        and node.attributes.get_int("group", 1) == 1
        and "auto_pad" not in node.attributes
    )


def _block(node: ir.Node, rows: int) -> Block | None:
    """Blocks without a row to spare; of a single pixel, which fills no vectors, also with some."""
    fallback = (HEIGHTS[-1], 1) if edit.is_of_pixels(node) else None
    return next(((height, 1) for height in HEIGHTS if rows % height == 0), fallback)
