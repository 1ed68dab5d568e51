"""A first roofline: time of one layer, dense in ONNX Runtime or sparse in our kernels.

``T = t0 + t_layout + max(F / (P·η), Q / BW)``: fixed cost of a node, moving activations between
layouts, then the slower of arithmetic and memory. The efficiencies η are measured shares of the
multiply-add peak (docs/performance.md); they depend on how much of a vector a map fills.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsecc.formats.blocks import Block
from sparsecc.targets import Target

BYTES_PER_WEIGHT = 4
BYTES_PER_INDEX = 4


@dataclass(frozen=True)
class Work:
    """One layer as the cost model sees it.

    Attributes:
        rows: Outputs R.
        cols: Inputs K of one output, kernel taps included.
        points: Output pixels or tokens of one run.
        groups: Convolution groups.
        input_elements: Elements of the input activation.
        is_conv: Whether activations are NCHW planes (else token rows).
    """

    rows: int
    cols: int
    points: int
    groups: int
    input_elements: int
    is_conv: bool

    @property
    def macs(self) -> int:
        """Multiply-adds of one run, dense."""
        return self.rows * self.cols * self.points

    @property
    def activation_bytes(self) -> int:
        """Bytes of input and output activations."""
        return 4 * (self.input_elements + self.rows * self.points)


@dataclass(frozen=True)
class Efficiency:
    """Share of peak of a kernel: ``eta`` on full vectors, less where few blocks fill a row.

    Attributes:
        eta: Share of the multiply-add peak on long rows.
        half_depth: Non-zero blocks of one block row at which half of ``eta`` is reached.
    """

    eta: float
    half_depth: float = 0.0


DENSE = Efficiency(0.86, 8.0)
UNSTRUCTURED = Efficiency(0.36, 6.0)
GENERATED = Efficiency(0.85, 0.8)
"""Here the depth is the non-zeros that an input meets in a strip of :data:`GENERATED_ROWS`."""
GENERATED_ROWS = 30
GENERATED_ISA = "x86-64-v4"
"""The instruction set that unstructured weights get machine code of their own for."""
GENERATED_TRIPLE = "x86_64-linux-gnu"
"""That code is called as functions are on Linux."""
INPUT_GROUPS = Efficiency(0.36, 6.0)
ROW_BLOCKS = {2: Efficiency(0.6, 8.0), 4: Efficiency(0.82, 8.0)}
WIDE_ROW_BLOCKS = Efficiency(0.84, 8.0)
IN_REGION = Efficiency(0.92, 3.5)
"""Blocks of four and more rows in a region, where activations are read as the layer before left
them in cache."""

INT8 = Efficiency(0.82, 2.0)
"""Of four-by-four blocks; the depth is the blocks of four outputs."""
INT8_DEPTHWISE = Efficiency(0.3)
INT8_PER_BLOCK = 20
"""Bytes of a block of 4x4 weights and its index."""

NODE_MS = 0.004
"""Fixed cost of one node in a session, ms."""
LAYOUT_GBS = 40.0
"""Rate at which activations change layout at the border of a sparse node, GB/s."""
PANEL_GBS = 80.0
"""Rate at which generated code's panels are packed, GB/s."""
PIECE = 64
"""Tokens that lie beside each other, where they are in the lanes."""
LONE_VECTOR = 0.6
"""Speed of a tile of one vector, as a share of that of more."""
FEW_POINTS = 4
"""Up to this many tokens a linear layer is bound by reading its weights."""
FEW_POINTS_BLOCK, FEW_POINTS_WEIGHT = 72.0, 10.0
"""What a block takes for each of a few tokens, in floating-point operations of the peak: at least
the first, and the second for each of its weights."""
WORTHWHILE = 0.97
"""A sparse kernel must be estimated at or below this share of the dense time."""
UNKNOWN_BATCH = 1
UNKNOWN_TOKENS = 64
UNKNOWN_SIDE = 28
"""What stands for sizes that a model leaves open: a batch, tokens, a side of an image."""


def sparse_efficiency(block: Block, *, beside: bool = False) -> Efficiency:
    """Efficiency of the kernel that serves an r×c block without generated code.

    Args:
        block: Rows and columns.
        beside: As in :func:`sparse_ms`.
    """
    r, c = block
    if r == 1:
        return UNSTRUCTURED if c == 1 else INPUT_GROUPS
    if beside and r >= 4:
        return IN_REGION
    return ROW_BLOCKS.get(r, WIDE_ROW_BLOCKS)


def generates(block: Block, groups: int, points: int | None, target: Target) -> bool:
    """Whether a layer gets machine code of its own.

    Args:
        block: Rows and columns of its blocks.
        groups: Convolution groups.
        points: Tokens of a matmul; None where any number may come, and for a convolution.
        target: What it is compiled for.
    """
    if target.stands_alone or target.triple != GENERATED_TRIPLE:
        return False  # only the library for ONNX Runtime is linked with code of a model
    few = points is not None and points <= FEW_POINTS
    return block == (1, 1) and groups == 1 and not few and GENERATED_ISA in target.isas


def _milliseconds(
    target: Target, flops: float, efficiency: float, weight_bytes: float, activation_bytes: float
) -> float:
    cached = weight_bytes + activation_bytes <= target.llc_bytes
    gbs = target.bandwidths[-2 if cached else -1]
    compute = flops / (target.peak_gflops * efficiency)
    memory = (weight_bytes + activation_bytes) / gbs
    return max(compute, memory) * 1e-6


def _filled(points: int, lanes: int) -> float:
    """Share of vector lanes that hold a real point."""
    return points / (math.ceil(points / lanes) * lanes)


def _filled_by_tokens(points: int, lanes: int) -> float:
    """The same for tokens in pieces of :data:`PIECE`.

    Where the last piece is a single vector, its few sums wait for each other.
    """
    vectors = math.ceil(points / lanes)
    lone = vectors % (PIECE // lanes) == 1
    return points / ((vectors + lone * (1 / LONE_VECTOR - 1)) * lanes)


def dense_ms(work: Work, target: Target) -> float:
    """Time of the layer in ONNX Runtime, one thread, ms."""
    efficiency = DENSE.eta * work.cols / (work.cols + DENSE.half_depth)
    weight_bytes = BYTES_PER_WEIGHT * work.rows * work.cols
    flops = 2.0 * work.macs
    return NODE_MS + _milliseconds(target, flops, efficiency, weight_bytes, work.activation_bytes)


def sparse_ms(
    work: Work, block: Block, blocks: int, target: Target, *, beside: bool = False
) -> float:
    """Time of the layer with ``blocks`` stored r×c blocks in our kernels, one thread, ms.

    Args:
        work: The layer.
        block: Rows and columns of a block.
        blocks: How many are stored.
        target: Where it runs.
        beside: Whether other layers of the library stand beside it, in one region: then it is no
            node of its own, and nothing changes its layout.
    """
    r, c = block
    generated = generates(block, work.groups, None if work.is_conv else work.points, target)
    quality = GENERATED if generated else sparse_efficiency(block, beside=beside)
    depth = blocks / max(1, math.ceil(work.rows / r))
    panels = 0.0
    if generated:
        depth *= GENERATED_ROWS / work.cols
        panels = 4 * work.cols * work.points / PANEL_GBS  # every tap of every point
    few = not work.is_conv and work.points <= FEW_POINTS
    stored = blocks * r * c
    if few:
        per_block = max(FEW_POINTS_BLOCK, FEW_POINTS_WEIGHT * r * c)
        efficiency = 2.0 * r * c / per_block
    else:
        filled = _filled if work.is_conv or generated else _filled_by_tokens
        lanes = filled(work.points, target.lanes)
        efficiency = max(1e-3, quality.eta * depth / (depth + quality.half_depth) * lanes)
    weight_bytes = stored * BYTES_PER_WEIGHT + blocks * BYTES_PER_INDEX
    flops = 2.0 * stored * work.points
    return (
        (0.0 if beside else border_ms(work, block))
        + panels * 1e-6
        + _milliseconds(target, flops, efficiency, weight_bytes, work.activation_bytes)
    )


def demand(work: Work, stored: int, blocks: int = 0) -> tuple[float, int]:
    """Floating-point operations and bytes of one run.

    Args:
        work: The layer.
        stored: Weights that are multiplied.
        blocks: Blocks they are stored in, each with an index; 0 when they are dense.
    """
    weight_bytes = BYTES_PER_WEIGHT * stored + BYTES_PER_INDEX * blocks
    return 2.0 * stored * work.points, work.activation_bytes + weight_bytes


def border_ms(work: Work, block: Block) -> float:
    """What a layer costs besides where it stands alone: its node, and other layouts around it, ms.

    Tokens of products by blocks of several rows lie in the lanes from layer to layer.
    """
    few = not work.is_conv and work.points <= FEW_POINTS
    in_lanes = block[0] > 1 and not (work.is_conv or few)
    return NODE_MS + (0.0 if in_lanes else layout_ms(work))


def moved_ms(nbytes: float, target: Target) -> float:
    """What moving so many bytes of activations takes, ms: on a GPU, reading or writing each."""
    gbs = target.dram_gbs if target.family == "cuda" else LAYOUT_GBS
    return nbytes / gbs * 1e-6


def layout_ms(work: Work) -> float:
    """What changing the layout of all that a layer reads and makes takes, ms."""
    return work.activation_bytes / LAYOUT_GBS * 1e-6


def int8_ms(work: Work, blocks: int, target: Target) -> float:
    """Time of the layer in eight bits with ``blocks`` 4x4 blocks, inside a region, ms."""
    depth = blocks / max(1, math.ceil(work.rows / 4))
    share = INT8_DEPTHWISE.eta
    if work.groups == 1:
        share = INT8.eta * depth / (depth + INT8.half_depth) * _filled(work.points, target.lanes)
    flops = 2.0 * 16 * blocks * work.points
    efficiency = max(1e-3, share) * target.int8_gain
    moved = work.activation_bytes / 4
    return _milliseconds(target, flops, efficiency, INT8_PER_BLOCK * blocks, moved)
