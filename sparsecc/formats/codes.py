"""Weights as codes of few bits times scales: what quantised models hold, found in their numbers.

A row of a weight, or so many inputs of it, shares one scale: ``w = code * scale`` in float32, as
``DequantizeLinear`` without a zero point, or with one that codes have taken in, computes it. The
codes are found again from these products, whatever made them, and given only where they give the
same numbers to the last bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecc.formats.blocks import Block, BlockWeight, pack_blocks, unpack_blocks

BITS = (4, 8)
GROUPS = (256, 128, 64, 32, 16)
"""Numbers of inputs that may share a scale where a row has several; models have 16 to 128."""
EVEN = 16
"""Outputs and inputs of a weight are multiples of so many where it is kept as codes."""
_SAMPLED_ROWS = 4
"""Rows that are looked at before all are: of weights that are no codes they are none either."""
_ROWS_AT_A_TIME = 1 << 14
_NEIGHBOURS = 2
"""The scale is so many float32 numbers away from what its largest weight says, at most."""
_SMALLEST_SCALE = {4: 0.6, 8: 0.9}
"""Of the scale at which the largest weight is the largest code."""
_SCALES_TRIED = {4: 21, 8: 6}

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Codes:
    """A weight ``[..., R, K]`` as codes.

    Attributes:
        codes: int8, of the same shape.
        scales: float32 ``[..., R, G]``: one for each row and `group` inputs, the last may be fewer.
        group: Inputs that share a scale; K where a row has one.
        bits: 4 or 8, which hold every code.
    """

    codes: NDArray[np.int8]
    scales: Floats
    group: int
    bits: int


def largest_code(bits: int) -> int:
    """The largest code; there is one more below zero."""
    return int(2 ** (bits - 1)) - 1


def find_codes(weights: Sequence[Floats]) -> list[Codes] | None:
    """Codes of weights ``[..., R, K]``, all with one scale for a row or all with the same group.

    None where some weight is no product of codes and scales.
    """
    sampled = [weight.reshape(-1, weight.shape[-1])[:_SAMPLED_ROWS] for weight in weights]
    for bits, group in itertools.product(BITS, (None, *GROUPS)):
        wide = group is None or any(weight.shape[-1] > group for weight in weights)
        if not wide or any(_codes_of(rows, bits, group) is None for rows in sampled):
            continue
        found = [_codes_of(weight, bits, group) for weight in weights]
        if all(each is not None for each in found):
            return [each for each in found if each is not None]
    return None


def round_to_codes(weight: Floats, bits: int, group: int | None = None) -> Codes:
    """The nearest codes of a weight ``[..., R, K]``, with the scales that lose least.

    For each scale, from the one at which the largest weight is the largest code down to
    :data:`_SMALLEST_SCALE` of it, weights are rounded, clipped, and compared.

    Args:
        weight: Finite numbers.
        bits: 4 or 8.
        group: Inputs that share a scale; None for one in a row.
    """
    columns, most = weight.shape[-1], largest_code(bits)
    size = columns if group is None or group > columns else group
    parts = -(-columns // size)
    padded = np.pad(weight.reshape(-1, columns), ((0, 0), (0, parts * size - columns)))
    rows = padded.reshape(-1, size)
    codes: NDArray[np.int8] = np.zeros(rows.shape, np.int8)
    scales = np.ones(len(rows), np.float32)
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        own = rows[start : start + _ROWS_AT_A_TIME]
        largest = np.abs(own).max(axis=1, initial=0)
        full = np.where(largest > 0, largest / np.float32(most), np.float32(1))
        least = np.full(len(own), np.inf)
        for share in np.linspace(1, _SMALLEST_SCALE[bits], _SCALES_TRIED[bits], dtype=np.float32):
            scale = full * share
            whole = np.clip(np.rint(own / scale[:, None]), -most - 1, most)
            lost = np.square(whole * scale[:, None] - own).sum(axis=1)
            better = np.flatnonzero(lost < least)
            least[better] = lost[better]
            codes[start + better] = whole[better]
            scales[start + better] = scale[better]
    codes = codes.reshape(len(padded), -1)[:, :columns].reshape(weight.shape)
    shape = (*weight.shape[:-1], parts)
    return Codes(np.ascontiguousarray(codes), scales.reshape(shape), size, bits)


def dequantized(coded: Codes) -> Floats:
    """The weight."""
    at = np.arange(coded.codes.shape[-1]) // coded.group
    return np.asarray(coded.codes * coded.scales[..., at], np.float32)


def _codes_of(weight: Floats, bits: int, group: int | None) -> Codes | None:
    """Codes of a weight of so many bits with this group, or with one scale for a row."""
    columns = weight.shape[-1]
    size = columns if group is None else group
    parts = -(-columns // size)
    padded = weight.reshape(-1, columns)
    if parts * size != columns:
        padded = np.pad(padded, ((0, 0), (0, parts * size - columns)))
    rows = padded.reshape(-1, size)
    codes: NDArray[np.int8] = np.zeros(rows.shape, np.int8)
    scales = np.ones(len(rows), np.float32)
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        at = slice(start, start + _ROWS_AT_A_TIME)
        if not _find(rows[at], bits, codes[at], scales[at]):
            return None
    codes = codes.reshape(len(padded), -1)[:, :columns].reshape(weight.shape)
    shape = (*weight.shape[:-1], parts)
    return Codes(np.ascontiguousarray(codes), scales.reshape(shape), size, bits)


def _find(rows: Floats, bits: int, codes: NDArray[np.int8], scales: Floats) -> bool:
    """Fill in codes and scale of each row ``[N, group]``; whether every row has them."""
    most = np.abs(rows).max(axis=1, initial=0)
    if not np.isfinite(most).all():
        return False
    left = np.flatnonzero(most)
    highest = largest_code(bits)
    for code in (highest, highest + 1, *range(highest - 1, 0, -1)):
        if not len(left):
            return True
        own = rows[left]
        scale = most[left] / np.float32(code)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            whole = np.rint(own / scale[:, None])
        fits = (whole <= highest).all(axis=1) & (whole >= -highest - 1).all(axis=1)
        found, exact = _exact_scale(own, whole, scale)
        fits &= found
        codes[left[fits]] = whole[fits].astype(np.int8)
        scales[left[fits]] = exact[fits]
        left = left[~fits]
    return not len(left)


def _exact_scale(rows: Floats, whole: Floats, scale: Floats) -> tuple[NDArray[np.bool_], Floats]:
    """Which rows are these codes times a scale near the given one, to the last bit, and which."""
    found, exact = np.zeros(len(rows), bool), scale.copy()
    tries = [scale]
    for end in (0, np.inf):
        near = scale
        for _ in range(_NEIGHBOURS):
            near = np.nextafter(near, np.float32(end))
            tries.append(near)
    close = (np.abs(whole * scale[:, None] - rows) <= np.abs(rows) * np.float32(1e-6)).all(axis=1)
    for each in tries:
        open_ = np.flatnonzero(close & ~found)
        if not len(open_):
            break
        same = (whole[open_] * each[open_, None] == rows[open_]).all(axis=1)
        exact[open_[same]] = each[open_[same]]
        found[open_[same]] = True
    return found, exact


# ---- packed ----
def block_of(bits: int) -> Block:
    """The block of packed codes: a byte for each of 16 rows."""
    return EVEN, 8 // bits


def pack_codes(coded: Codes, *, bits: int, keep_zeros: bool) -> tuple[BlockWeight, Floats]:
    """Codes ``[R, K]`` as blocks of 16 bytes, and their scales ``[Rb, G, 16]``.

    Values are int8 ``[blocks, 16]`` or, of 4 bits, uint8 with the codes of two inputs in a byte,
    those of the first in its low bits.
    """
    codes: NDArray[Any] = coded.codes
    packed = pack_blocks(codes, block_of(bits), keep_zeros=keep_zeros)
    if bits == 4:
        pairs = packed.values.reshape(-1, EVEN, 2).view(np.uint8)
        values: NDArray[Any] = (pairs[..., 0] & 15) | (pairs[..., 1] << 4)
        packed = BlockWeight(values, packed.index, packed.grid, packed.shape)
    scales = coded.scales.reshape(-1, EVEN, coded.scales.shape[-1]).swapaxes(1, 2)
    return packed, np.ascontiguousarray(scales)


def unpack_codes(packed: BlockWeight, scales: Floats, *, bits: int, group: int) -> Floats:
    """The weight ``[R, K]`` that :func:`pack_codes` made blocks and scales of."""
    values: NDArray[Any] = packed.values
    if bits == 4:
        pairs = np.stack([values & 15, values >> 4], -1).reshape(len(values), -1).astype(np.int8)
        values = (pairs ^ 8) - np.int8(8)  # four bits with a sign
    codes: NDArray[Any] = unpack_blocks(
        BlockWeight(values, packed.index, packed.grid, packed.shape)
    )
    by_row = np.ascontiguousarray(scales.swapaxes(1, 2)).reshape(len(codes), -1)
    return dequantized(Codes(codes, by_row, group, bits))
