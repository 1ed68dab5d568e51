"""Shapes that a calibration measures: log-spaced, seeded, and beside the edges of tiles."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from sparsecc.cost.families import DENSE, Call, Family, base_ms
from sparsecc.cost.roofline import FEW_POINTS, PIECE, Work
from sparsecc.formats.blocks import Block
from sparsecc.targets import Target

SAMPLES = 200
"""Shapes of a row; where a family has no other, so many times as many."""
ALONE = 3
MOST_MS = 3.0
"""Estimate of the slowest shape, on the target, ms."""
LEAST_MS = 0.0006
STEMS = 0.04
"""Share of convolutions that read the colours of an image."""
MOST_WEIGHTS = 2_400_000
MOST_INPUTS = 2_000_000
SIDES = (7, 14, 28, 56, 112)
"""Sides of the images of common networks; every other image has another."""
EDGES = 0.25
"""Share of shapes that lie one beside an edge of a tile."""
LEAST_DENSITY, MOST_DENSITY = 0.03, 0.95
FEW_ZEROS = 0.25
"""Share of shapes with a density from half upward: below, densities are log-uniform."""
WHOLE = 0.12
"""Share of shapes without zeros, where blocks without zeros are packed too."""


@dataclass(frozen=True)
class Shape:
    """A call as it is measured.

    Attributes:
        call: The layer and its kernel.
        kernel: Side of a convolution's window; 1 for products.
        stride: Of a convolution.
        side: Height and width of the input image; 1 for products.
    """

    call: Call
    kernel: int = 1
    stride: int = 1
    side: int = 1


@dataclass(frozen=True)
class Row:
    """What is measured together: one kernel.

    Attributes:
        name: Of the kernel.
        family: Of the kernel.
        blocks: Blocks it serves that are measured.
        tile: Rows of its tile, and pixels or tokens.
    """

    name: str
    family: Family
    blocks: tuple[Block, ...]
    tile: tuple[int, int]


def shapes(row: Row, target: Target, count: int = SAMPLES, salt: str = "") -> list[Shape]:
    """Shapes of a row, each once; another salt gives others."""
    rng = np.random.default_rng(zlib.crc32(f"{row.name} {salt}".encode()))
    draw = _DRAWS[row.family]
    found: dict[Shape, None] = {}
    while len(found) < count:
        shape = draw(rng, row)
        if _fits(shape, target):
            found[shape] = None
    return list(found)


def _fits(shape: Shape, target: Target) -> bool:
    work = shape.call.work
    dense = work.rows * work.cols // (work.groups if work.groups == work.rows else 1)
    small = dense <= MOST_WEIGHTS and max(work.input_elements, work.rows * work.points) <= (
        MOST_INPUTS
    )
    return small and LEAST_MS <= base_ms(shape.call, target) <= MOST_MS


def _log(rng: np.random.Generator, low: float, high: float) -> float:
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def _whole(rng: np.random.Generator, low: float, high: float, tile: int) -> int:
    """A log-uniform number; some lie at an edge of a tile or one beside it."""
    number = round(_log(rng, low, high))
    if tile > 1 and rng.random() < EDGES:
        number = max(1, round(number / tile)) * tile + int(rng.integers(-1, 2))
    elif number > 2 * low and rng.random() < 0.7:
        number = number // 8 * 8  # as most layers have them
    return max(int(low), number)


def _packed(rng: np.random.Generator, row: Row, work: Work) -> Call:
    """A number of blocks of a weight."""
    block = row.blocks[int(rng.integers(len(row.blocks)))]
    grid = math.ceil(work.rows / block[0]) * math.ceil(work.cols / block[1])
    whole = block[0] > 1 and block[1] == 1 and rng.random() < WHOLE
    density = _log(rng, LEAST_DENSITY, 0.5)
    if whole:
        density = 1.0
    elif rng.random() < FEW_ZEROS:
        density = rng.uniform(0.5, MOST_DENSITY)
    return Call(work, block, max(1, round(grid * density)))


def _image(rng: np.random.Generator, stride: int) -> int:
    side = int(rng.choice(SIDES)) if rng.random() < 0.6 else round(_log(rng, 6, 120))
    return max(stride * 2, side * stride if rng.random() < 0.5 else side)


def image_work(
    rows: int, channels: int, side: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> Work:
    """A convolution of a square image with as much padding as keeps its sides."""
    points = ((side + 2 * (kernel // 2) - kernel) // stride + 1) ** 2
    cols = channels // groups * kernel**2
    return Work(rows, cols, points, groups, channels * side**2, is_conv=True)


def _conv_work(rng: np.random.Generator, row: Row) -> tuple[Work, int, int, int]:
    kernel = int(rng.choice((1, 3, 5), p=(0.62, 0.34, 0.04)))
    stride = int(rng.choice((1, 2), p=(0.75, 0.25)))
    side = _image(rng, stride)
    rows, channels = _whole(rng, 16, 2048, row.tile[0]), _whole(rng, 16, 2048, 1)
    if rng.random() < STEMS:
        kernel, stride, side = int(rng.choice((3, 7))), 2, int(rng.choice((96, 192, 224)))
        rows, channels = 8 * int(rng.integers(2, 9)), 3
    return image_work(rows, channels, side, kernel, stride), kernel, stride, side


def _conv(rng: np.random.Generator, row: Row) -> Shape:
    work, *how = _conv_work(rng, row)
    return Shape(_packed(rng, row, work), *how)


def _dense_conv(rng: np.random.Generator, row: Row) -> Shape:
    work, *how = _conv_work(rng, row)
    return Shape(Call(work, DENSE, 0), *how)


def _depthwise(rng: np.random.Generator, row: Row) -> Shape:
    kernel, stride = int(rng.choice((3, 5))), int(rng.choice((1, 2), p=(0.7, 0.3)))
    side, channels = _image(rng, stride), _whole(rng, 8, 2048, 1)
    work = image_work(channels, channels, side, kernel, stride, groups=channels)
    block, blocks = ((1, 1), channels * kernel * kernel) if row.blocks else (DENSE, 0)
    return Shape(Call(work, block, blocks), kernel, stride, side)


def _product(rng: np.random.Generator, row: Row, tokens: int) -> Work:
    rows, cols = _whole(rng, 16, 4096, row.tile[0]), _whole(rng, 16, 4096, 1)
    return Work(rows, cols, tokens, 1, cols * tokens, is_conv=False)


def _tokens(rng: np.random.Generator, row: Row) -> int:
    if rng.random() < 0.3:
        return int(rng.choice((PIECE, 2 * PIECE, 50, 197, 256)))
    return _whole(rng, FEW_POINTS + 1, 1024, row.tile[1])


def _matmul(rng: np.random.Generator, row: Row) -> Shape:
    return Shape(_packed(rng, row, _product(rng, row, _tokens(rng, row))))


def _matvec(rng: np.random.Generator, row: Row) -> Shape:
    return Shape(_packed(rng, row, _product(rng, row, int(rng.integers(1, FEW_POINTS + 1)))))


def _dense_matmul(rng: np.random.Generator, row: Row) -> Shape:
    return Shape(Call(_product(rng, row, _tokens(rng, row)), DENSE, 0))


def _dense_matvec(rng: np.random.Generator, row: Row) -> Shape:
    return Shape(Call(_product(rng, row, int(rng.integers(1, FEW_POINTS + 1))), DENSE, 0))


_DRAWS = {
    "conv": _conv,
    "conv-code": _conv,
    "depthwise": _depthwise,
    "matmul": _matmul,
    "matmul-code": _matmul,
    "matvec": _matvec,
    "onnxruntime-conv": _dense_conv,
    "onnxruntime-depthwise": _depthwise,
    "onnxruntime-matmul": _dense_matmul,
    "onnxruntime-matvec": _dense_matvec,
}
