"""Weights as codes of four bits, and how kernels read these.

A group of inputs of a row is ``scale · (code - zero)``: codes and zero are 0 to 15, the scale is
float16 and lies with the zero in one word. Zero weights stay exactly zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.cuda.forms.base import Matrix
from sparsecc.errors import BackendError

MOST = 15
"""The largest code, and zero."""
PACK = 32
"""Codes that a thread reads at once: 16 bytes."""
_EIGHT = 8
"""Neighbours whose inputs are read at once."""
_ROWS_AT_A_TIME = 64
"""So that what is computed between stays in the cache."""
_SMALLEST, _LARGEST = float(np.finfo(np.float16).smallest_normal), float(np.finfo(np.float16).max)
_ZERO_BIT, _PLACE_BIT = 16, 20
MOST_PLACES = 1 << (32 - _PLACE_BIT)
Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Coded:
    """A weight ``[rows, columns]`` as codes of groups of inputs.

    Attributes:
        codes: Uint8 ``[rows, groups, inputs of a group]``.
        scales: Float16 ``[rows, groups]``; 0 where a group is not kept.
        zeros: Uint8 ``[rows, groups]``.
        columns: Of the weight; the last group of a row may be cut.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    zeros: NDArray[np.uint8]
    columns: int

    def __post_init__(self) -> None:
        """Refuse what no word holds."""
        rows, groups, group = self.codes.shape
        if self.scales.shape != (rows, groups) or self.zeros.shape != (rows, groups):
            raise BackendError(
                f"codes [{rows}, {groups}, {group}] have scales {list(self.scales.shape)} and "
                f"zeros {list(self.zeros.shape)}",
                fix=f"give one of each for every group: [{rows}, {groups}]",
            )
        if math.ceil(self.columns / group) != groups:
            raise BackendError(
                f"{groups} groups of {group} inputs do not cover {self.columns} columns",
                fix=f"give {math.ceil(self.columns / group)} groups",
            )
        if max(self.codes.max(initial=0), self.zeros.max(initial=0)) > MOST:
            raise BackendError("a code or zero has more than 4 bits", fix="use 0 to 15")
        if not np.isfinite(self.scales).all():
            raise BackendError("a scale is no finite float16", fix="scale the layer")

    @property
    def group(self) -> int:
        """Inputs of a group."""
        return int(self.codes.shape[2])


def quantized(weight: Matrix, group: int) -> Coded:
    """The codes of a weight: each group from its least to its largest number, 0 between them.

    Groups of zeros are not kept. The scale is rounded down, so that codes of what is held are
    these codes again, unless it is smaller than normal float16 numbers.

    Raises:
        BackendError: A number is not finite, or too large for a float16 scale.
    """
    starts = range(0, max(1, len(weight)), _ROWS_AT_A_TIME)
    parts = [_quantized(weight, slice(start, start + _ROWS_AT_A_TIME), group) for start in starts]
    codes, scales, zeros = map(np.concatenate, zip(*parts, strict=True))
    return Coded(codes, scales, zeros, weight.shape[1])


def _quantized(
    weight: Matrix, rows: slice, group: int
) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.uint8]]:
    """Codes, scales and zeros of some rows."""
    columns = weight.shape[1]
    own = weight[rows].astype(np.float64)
    values = np.pad(own, ((0, 0), (0, -columns % group))).reshape(len(own), -1, group)
    low, high = np.minimum(values.min(2, initial=0), 0), np.maximum(values.max(2, initial=0), 0)
    step = (high - low) / MOST
    if not (step <= _LARGEST).all():
        raise BackendError(
            f"a weight {list(weight.shape)} has numbers that no float16 scale reaches, in rows "
            f"{rows.start} to {rows.start + len(own) - 1}",
            fix="scale the layer, or remove what is not finite",
        )
    near = step.astype(np.float16)
    below = np.where(near > step, np.nextafter(near, np.float16(0)), near)
    above = np.where(near < step, np.nextafter(near, np.float16(np.inf)), near)
    scales = np.where(step < _SMALLEST, above, below)
    divisor = np.where(scales > 0, scales, 1).astype(np.float64)
    zeros = np.clip(np.floor(0.5 - low / divisor), 0, MOST)
    # ends round away from each other where both are halves, so that they are 15 apart
    codes = np.ceil(values / divisor[..., None] + (zeros[..., None] - 0.5))
    codes = np.clip(codes, 0, MOST).astype(np.uint8)
    kept = (codes != zeros[..., None]).any(2)
    return codes, np.where(kept, scales, np.float16(0)), zeros.astype(np.uint8)


def dequantized(coded: Coded) -> NDArray[np.float32]:
    """The weight ``[rows, columns]``."""
    whole = coded.codes.astype(np.float32) - coded.zeros[..., None]
    weight = whole * coded.scales[..., None].astype(np.float32)
    return weight.reshape(len(weight), -1)[:, : coded.columns]


def turns_of(packs: NDArray[np.integer], span: int) -> NDArray[Any]:
    """By how much the eights of each pack are turned: neighbours then read from other banks."""
    return (packs >> 1) & (span // _EIGHT - 1)


def mixed(codes: NDArray[np.uint8], turns: NDArray[Any]) -> Words:
    """Codes ``[spans, span]`` as four words each, of which the low ``span`` bits are used.

    Byte i of word w has the codes at ``2 w`` and ``2 w + 1`` of the eight with the number
    ``i ^ turn``.
    """
    spans, span = codes.shape
    pairs = codes.reshape(spans, span // _EIGHT, 4, 2).astype(np.uint32)
    every = np.arange(span // _EIGHT)
    pairs = np.take_along_axis(pairs, (every ^ turns[:, None])[:, :, None, None], 1)
    shifts = (8 * every[:, None, None] + 4 * np.arange(2)).astype(np.uint32)
    return np.asarray(np.bitwise_or.reduce(pairs << shifts, axis=(1, 3)), np.uint32)


def unmixed(words: Words, turns: NDArray[Any], span: int) -> NDArray[np.uint8]:
    """The codes ``[spans, span]`` of :func:`mixed`."""
    every = np.arange(span // _EIGHT)
    shifts = (8 * every[:, None, None] + 4 * np.arange(2)).astype(np.uint32)
    pairs = (words[:, None, :, None] >> shifts) & MOST
    pairs = np.take_along_axis(pairs, (every ^ turns[:, None])[:, :, None, None], 1)
    return pairs.astype(np.uint8).reshape(len(words), span)


def words_of(
    scales: NDArray[np.float16], zeros: NDArray[np.uint8], places: NDArray[Any] | int = 0
) -> Words:
    """Scale, zero and place of each group as one word."""
    low = np.ascontiguousarray(scales).view(np.uint16).astype(np.uint32)
    high = np.asarray(places).astype(np.uint32) << np.uint32(_PLACE_BIT)
    return np.asarray(low | zeros.astype(np.uint32) << np.uint32(_ZERO_BIT) | high, np.uint32)


def parts_of(words: Words) -> tuple[NDArray[np.float16], NDArray[np.uint8], NDArray[np.int64]]:
    """Scales, zeros and places of :func:`words_of`."""
    scales = (words & 0xFFFF).astype(np.uint16).view(np.float16)
    zeros = ((words >> _ZERO_BIT) & MOST).astype(np.uint8)
    return scales, zeros, (words >> _PLACE_BIT).astype(np.int64)
