"""Which voxels are in which set: run-time ops on an open number of voxels.

Wang et al., DSVT: Dynamic Sparse Voxel Transformer with Rotated Sets, arXiv 2301.06051, section
3.2. A window of N voxels has S = ceil(N / size) sets, and slot k of set i holds the sorted voxel
floor((i size + k) N / (S size)): every voxel is in one set, in slots that follow each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SET = 36


@dataclass(frozen=True)
class Windows:
    """How a grid of voxels is cut.

    Attributes:
        side: Voxels along each side of the grid.
        size: Voxels along each side of a window.
        shift: How far windows begin before the grid.
    """

    side: int
    size: int
    shift: int = 0

    @property
    def across(self) -> int:
        """Windows along each side."""
        return -(-(self.side + self.shift) // self.size)


class Sets(NamedTuple):
    """Sets of voxels.

    Attributes:
        voxels: ``[sets, SET]``: who is in each slot.
        repeated: ``[sets, SET]``: slots whose voxel is that of the slot before.
        slots: ``[voxels]``: the first slot of each, counted through all sets.
    """

    voxels: Tensor
    repeated: Tensor
    slots: Tensor


def sets_of(places: Tensor, windows: Windows, *, by_rows: bool, size: int = SET) -> Sets:
    """The sets of voxels.

    Args:
        places: ``[voxels, 2]``: row and column of each in the grid, no two alike.
        windows: How the grid is cut.
        by_rows: Whether voxels of a window are sorted by row and then by column, or the other way.
        size: Slots of a set.
    """
    moved = places + windows.shift
    window = moved // windows.size
    inside = moved - window * windows.size
    number = window[:, 0] * windows.across + window[:, 1]
    first, second = (0, 1) if by_rows else (1, 0)
    rank = inside[:, first] * windows.size + inside[:, second]
    order = torch.argsort(number * windows.size**2 + rank)
    counts = torch.zeros(windows.across**2, dtype=torch.int64)
    counts = counts.scatter_add(0, number, torch.ones_like(number))
    per_window = (counts + size - 1) // size
    begin, set_begin = counts.cumsum(0) - counts, per_window.cumsum(0) - per_window

    window_of = number[order]
    n, sets = counts[window_of], per_window[window_of]
    place = torch.arange(places.shape[0]) - begin[window_of]  # among the voxels of its window
    slot = (place * sets * size + n - 1) // n  # the first m with floor(m n / (sets size)) = place
    slots = torch.empty_like(order).scatter(0, order, set_begin[window_of] * size + slot)

    opens = torch.nonzero(place * sets // n != (place - 1) * sets // n)[:, 0]
    opened = window_of[opens]
    m = (slot[opens] // size * size)[:, None] + torch.arange(size)
    n, sets = counts[opened][:, None], per_window[opened][:, None]
    at = m * n // (sets * size)
    before = torch.cat([at[:, :1] - 1, at[:, :-1]], 1)
    return Sets(order[begin[opened][:, None] + at], at == before, slots)
