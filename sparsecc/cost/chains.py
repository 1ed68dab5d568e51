"""Chains that a calibration measures: what layers save where one step streams them through cache.

They are drawn, not taken from any network: convolutions of a pixel between depthwise ones, as in
small networks, or around windows, as in deep ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sparsecc.cost.families import Call
from sparsecc.cost.rates import Sums
from sparsecc.cost.roofline import Work
from sparsecc.cost.shapes import Shape, image_work
from sparsecc.formats.blocks import Block

CHAINS = 240
"""How many are measured."""
MOST_STAGES = 7
MOST_BYTES, MOST_WEIGHTS = 8 << 20, 1_500_000
"""Of what a layer reads and makes, and its weights."""
SIDES = (112, 96, 64, 56, 48, 28, 24, 14, 7)
CHANNELS = (16, 24, 40, 64, 96, 160, 240, 400, 640, 960)
BLOCKS: tuple[Block, ...] = ((4, 1), (16, 1), (1, 1))
"""The last gets machine code where there is any, and windows of it stream nothing."""
DENSITIES = (0.05, 0.1, 0.2, 0.4)
DEEP_EVERY = 3
"""One chain of so many has windows over all channels."""
WINDOW = 3
STRIDED = 0.3
"""Share of depthwise layers of large images that halve them."""
LEAST_HALVED = 28


@dataclass(frozen=True)
class Chain:
    """Convolutions that only feed each other.

    Attributes:
        stages: They, in order.
    """

    stages: tuple[Shape, ...]

    @property
    def streamed(self) -> Sums:
        """What the rate of that name counts."""
        return streamed([stage.call.work for stage in self.stages])


def streamed(layers: Sequence[Work]) -> Sums:
    """What the rate of that name counts of the values between layers of a chain."""
    read = [(made.rows * made.points, reader.groups > 1) for made, reader in pairwise(layers)]
    by_depthwise = sum(elements for elements, depthwise in read if depthwise)
    return Sums(len(read), by_depthwise, sum(elements for elements, _ in read) - by_depthwise)


def chains(count: int = CHAINS) -> list[Chain]:
    """Chains to measure."""
    rng = np.random.default_rng(0)
    found: list[Chain] = []
    while len(found) < count:
        at = len(found)
        stages = _stages(rng, between_first=at % 2 == 0, deep=at % DEEP_EVERY == 0)
        if len(stages) > 1:
            found.append(Chain(tuple(stages)))
    return found


def _stages(rng: np.random.Generator, *, between_first: bool, deep: bool) -> list[Shape]:
    """Pointwise layers, and between them depthwise ones; where it is deep, windows."""
    side, channels = int(rng.choice(SIDES)), int(rng.choice(CHANNELS))
    blocks = BLOCKS[:-1] if deep else BLOCKS
    block, density = blocks[rng.integers(len(blocks))], float(rng.choice(DENSITIES))
    stages: list[Shape] = []
    for at in range(int(rng.integers(2, MOST_STAGES + 1))):
        between = (at % 2 == 0) == between_first
        if between and deep:
            stage = _packed(channels, channels, side, WINDOW, block, density)
        elif between:
            halves = side >= LEAST_HALVED and side % 2 == 0 and rng.random() < STRIDED
            stage = _depthwise(channels, side, int(rng.choice((3, 3, 3, 5))), 2 if halves else 1)
            side //= stage.stride
        else:
            stage = _packed(int(rng.choice(CHANNELS)), channels, side, 1, block, density)
        work = stage.call.work
        if work.activation_bytes > MOST_BYTES or work.rows * work.cols > MOST_WEIGHTS:
            break
        stages.append(stage)
        channels = work.rows
    return stages


def _depthwise(channels: int, side: int, kernel: int, stride: int) -> Shape:
    work = image_work(channels, channels, side, kernel, stride, groups=channels)
    return Shape(Call(work, (1, 1), channels * kernel**2), kernel, stride, side)


def _packed(
    rows: int, channels: int, side: int, kernel: int, block: Block, density: float
) -> Shape:
    work = image_work(rows, channels, side, kernel)
    blocks = max(1, round(-(-rows // block[0]) * work.cols * density))
    return Shape(Call(work, block, blocks), kernel, 1, side)
