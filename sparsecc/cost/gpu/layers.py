"""What kernels do for a layer: dense ones of the libraries, and ours as their tables start them.

Numbers are of 16 bits, which is what the kernels take.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from sparsecc.backends.cuda.attention import FEATURES, kernel_of
from sparsecc.backends.cuda.kernel import Arch, Launch
from sparsecc.backends.cuda.tiles import Tiles
from sparsecc.cost.gpu.bounds import WARP, Demand, Launched, Resources, Task
from sparsecc.cost.gpu.coefficients import Family
from sparsecc.cost.gpu.turns import turn
from sparsecc.cost.roofline import Work

BYTES = 2
"""Of a number."""
PART_BYTES = 4
"""Of a sum that is not complete."""
_DENSE: tuple[tuple[int, int, Resources], ...] = (
    # outputs and tokens of a tile, as libraries choose among; 64 inputs a stage
    (128, 256, Resources(warps=8, stages=3, registers=224, shared=144 << 10)),
    (256, 128, Resources(warps=8, stages=3, registers=224, shared=144 << 10)),
    (128, 128, Resources(warps=4, stages=2, registers=224, shared=64 << 10)),
    (128, 64, Resources(warps=4, stages=3, registers=144, shared=72 << 10)),
    (64, 128, Resources(warps=4, stages=3, registers=144, shared=72 << 10)),
    (64, 64, Resources(warps=4, stages=4, registers=112, shared=64 << 10)),
    (128, 16, Resources(warps=4, stages=4, registers=80, shared=72 << 10)),
    (64, 16, Resources(warps=4, stages=4, registers=80, shared=40 << 10)),
)
_SPLITS = (1, 2, 4, 8, 16)
"""Parts that a library cuts inputs into, where tiles alone do not fill the GPU."""
_LEAST_INPUTS = 256
"""Of such a part."""
_LANES = Resources(warps=8, stages=2, registers=64, shared=0)
"""Of kernels that compute number by number: layers over single channels."""
_READERS: Mapping[Arch, int] = {"sm_80": 1, "sm_90": 2}
"""Programs of a library that one read from the second-level cache serves: on sm_90 pairs do, by
multicast. First principles, not measured."""
TILES = (64, 128)
"""Queries of the tiles that there are attention kernels for."""


def resources(launch: Launch) -> Resources:
    """Those of a row of the kernel table."""
    return Resources(launch.warps, launch.stages, launch.registers, launch.shared)


@functools.lru_cache(maxsize=4096)
def dense(work: Work, arch: Arch) -> tuple[Task, ...]:
    """A layer with its whole weight in every tile that a library has; the best is meant."""
    return tuple(_dense(work, arch))


def _dense(work: Work, arch: Arch) -> Iterator[Task]:
    moved = BYTES * (work.input_elements + work.rows * work.points + work.rows * work.cols)
    if work.groups == work.rows > 1:
        programs = math.ceil(work.rows * work.points / (WARP * _LANES.warps))
        demand = Demand(programs, read=float(moved), issued=2.0 * work.macs / WARP)
        yield Task("library", (Launched(demand, _LANES),))
        return
    rows = work.rows // work.groups
    for (tall, wide, how), splits in itertools.product(_DENSE, _SPLITS):
        if splits > 1 and work.cols < splits * _LEAST_INPUTS:
            continue
        tiles = work.groups * math.ceil(rows / tall) * math.ceil(work.points / wide)
        parts = 2 * PART_BYTES * splits * work.rows * work.points if splits > 1 else 0
        demand = Demand(
            tiles * splits,
            flops=2.0 * tiles * tall * wide * work.cols,
            read=float(moved),
            again=float(BYTES * tiles * (tall + wide) * work.cols / _READERS[arch] + parts),
        )
        yield Task("library", (Launched(demand, how),))


@dataclass(frozen=True)
class Scores:
    """An attention, as far as its time goes.

    Attributes:
        heads: Of all samples.
        queries: Tokens.
        keys: Tokens.
        features: Of a head.
        kept: Scores of a head that are computed, in whole tiles.
        longest: Keys of the queries with the most over the mean.
    """

    heads: int
    queries: int
    keys: int
    features: int
    kept: float
    longest: float = 1.0


def longest_of(tiles: Tiles) -> float:
    """Tiles of keys in the row that has the most, over the mean."""
    counts = np.diff(tiles.starts)
    return float(counts.max() / counts.mean()) if counts.any() else 1.0


def attention(scores: Scores, arch: Arch, *, tall: int, dense: bool = False) -> Task:
    """Attention over kept tiles, or over all scores in the kernel of a library.

    Args:
        scores: What is computed.
        arch: Of the GPU.
        tall: Queries of a tile, one of :data:`TILES`.
        dense: Whether a library's kernel is meant, whose programs are taken to be like ours.

    Raises:
        BackendError: There is no kernel for such heads.
        TargetError: There is none for the architecture.
    """
    features = scores.features
    if dense:
        features = min((each for each in FEATURES if each >= features), default=max(FEATURES))
    kernel = kernel_of("float16", features, tall, ordered=False)
    launch = kernel.launch(arch)
    computed = scores.heads * scores.kept
    programs = scores.heads * math.ceil(scores.queries / tall)
    turns = computed / (tall * launch.constants["COLUMNS"])
    tokens = scores.heads * (scores.queries + scores.keys)
    demand = Demand(
        programs,
        flops=4.0 * computed * scores.features,
        read=float(2 * BYTES * tokens * scores.features),
        again=2.0 * BYTES * computed / tall * scores.features,
        issued=turns * launch.warps * turn(kernel, arch),
        exponentials=float(computed),
        longest=scores.longest,
    )
    family: Family = "attention-library" if dense else "attention"
    return Task(family, (Launched(demand, resources(launch)),))
