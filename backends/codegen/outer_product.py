"""Machine code of an unstructured weight on AVX-512: an outer product with its sums in registers.

The code of a strip of output rows computes one vector of 16 pixels or tokens for each of them. It
loads an input that the strip uses once, and multiplies it by one broadcast weight for each row with
a non-zero there: one instruction of seven bytes per non-zero. Positions are in the code, weights
are not: they stream by in the order of their use, so the code belongs to a pattern of zeros and
serves whatever values fill it.

Inputs come as a panel ``[K][16]``, 64-byte aligned. The stream of a strip is its biases, then its
weights by column, then row. A strip is a C function of the System V convention::

    void strip(const float *panel,   // WINDOW / 2 vectors into it
               const float *stream,  // WINDOW / 2 floats into it
               float *y,             // 16 results of the strip's first row
               i64 pitch,            // bytes to those of the next row
               const float *bounds); // least and greatest result

30 rows of one vector are best at every density (measured: 14 rows of two vectors, which share a
broadcast weight between two products, take 2.8 times the code and are 5 to 50 % slower).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.codegen import x86_encoder as x86

ROWS = 30
"""Most rows of a strip: their sums and two more vectors fill the 32 registers."""
LANES = 16
"""float32 numbers of a vector."""
VECTOR_BYTES = 4 * LANES
WINDOW = 256
"""Panel vectors, or floats of the stream, in reach of a one-byte displacement."""
_INPUT, _LOW, _HIGH = 30, 30, 31

Numbers = NDArray[np.int64]
Part = tuple[Numbers, x86.Instructions]


@dataclass(frozen=True)
class OuterProduct:
    """Code of one pattern of zeros.

    Attributes:
        code: Machine code of all strips.
        entries: ``[strips]``: where each strip begins in it.
        streams: ``[strips + 1]``: where each strip's stream begins, in floats, and the end.
    """

    code: NDArray[np.uint8]
    entries: Numbers
    streams: Numbers


@dataclass(frozen=True)
class _Uses:
    """Non-zeros in the order of the code, by strip, column and row within the strip.

    Attributes:
        event: Place in the order of all events: a strip's beginning, its non-zeros, its end.
        stream: Place in the strip's stream.
    """

    strip: Numbers
    column: Numbers
    row: Numbers
    event: Numbers
    stream: Numbers


def strip_bounds(rows: int) -> Numbers:
    """First row of each strip, and the end; strips are equally tall to within a row."""
    strips = math.ceil(rows / ROWS)
    return rows * np.arange(strips + 1, dtype=np.int64) // strips


def outer_product(index: NDArray[np.int32], rows: int, depth: int) -> OuterProduct:
    """Generate the code of a pattern of zeros of ``W[rows, depth]``.

    Args:
        index: Ascending positions ``row * depth + column`` of the non-zeros.
        rows: Outputs, at least one.
        depth: Inputs of an output.
    """
    bounds = strip_bounds(rows)
    heights = np.diff(bounds)
    row, column = np.divmod(index.astype(np.int64), depth)
    strip = np.searchsorted(bounds, row, side="right") - 1
    order = np.argsort((strip * depth + column) * ROWS + row - bounds[strip])
    strip, column, row = strip[order], column[order], (row - bounds[strip])[order]
    count = np.bincount(strip, minlength=len(heights))
    number = np.arange(len(row), dtype=np.int64)
    within = number - (np.cumsum(count) - count)[strip]
    uses = _Uses(strip, column, row, number + 2 * strip + 1, heights[strip] + within)
    begins = np.cumsum(count + 2) - (count + 2)
    parts = [
        *_biases(heights, begins),
        *_inputs(uses),
        *_products(uses),
        *_results(heights, begins + count + 1),
    ]
    code, keys, at = x86.assemble(parts)
    streams = np.concatenate([[0], np.cumsum(count + heights)])
    return OuterProduct(code, at[np.searchsorted(keys, _key(begins, 0))], streams)


def _key(event: Numbers, place: Numbers | int) -> Numbers:
    """Order of an instruction: by event, then by its place in it."""
    return event * (4 * ROWS + 8) + place


def _each_row(heights: Numbers, events: Numbers) -> tuple[Numbers, Numbers]:
    """For every row of every strip: its strip's event, its number in the strip."""
    first = np.cumsum(heights) - heights
    row = np.arange(heights.sum(), dtype=np.int64) - np.repeat(first, heights)
    return np.repeat(events, heights), row


def _biases(heights: Numbers, events: Numbers) -> list[Part]:
    event, row = _each_row(heights, events)
    return [(_key(event, row), x86.broadcast(row, x86.RSI, 4 * (row - WINDOW // 2)))]


def _inputs(uses: _Uses) -> list[Part]:
    """A load of each input before the first weight that uses it."""
    strip, column = uses.strip, uses.column
    new = np.ones(len(strip), bool)
    new[1:] = (strip[1:] != strip[:-1]) | (column[1:] != column[:-1])
    event = uses.event[new]
    window, within = np.divmod(column[new], WINDOW)
    loads = x86.load(_INPUT, x86.RDI, VECTOR_BYTES * (within - WINDOW // 2))
    steps = _steps(x86.RDI, VECTOR_BYTES * WINDOW, strip[new], window, event, 0)
    return [steps, (_key(event, 1), loads)]


def _products(uses: _Uses) -> list[Part]:
    window, within = np.divmod(uses.stream, WINDOW)
    at = 4 * (within - WINDOW // 2)
    steps = _steps(x86.RSI, 4 * WINDOW, uses.strip, window, uses.event, 2)
    return [steps, (_key(uses.event, 3), x86.fma_broadcast(uses.row, _INPUT, x86.RSI, at))]


def _steps(
    register: int, size: int, strip: Numbers, window: Numbers, event: Numbers, place: int
) -> Part:
    """Additions to a pointer where the next window begins."""
    before = np.zeros_like(window)
    before[1:] = np.where(strip[1:] == strip[:-1], window[:-1], 0)
    moved = window != before
    return _key(event[moved], place), x86.add(register, size * (window - before)[moved])


def _results(heights: Numbers, events: Numbers) -> list[Part]:
    """Sums clamped and stored, and the way back."""
    event, row = _each_row(heights, events)
    below = row + 1 < np.repeat(heights, heights)
    bounds = (
        (_key(events, 0), x86.broadcast(np.full(len(events), _LOW), x86.R8, 0)),
        (_key(events, 1), x86.broadcast(np.full(len(events), _HIGH), x86.R8, 4)),
    )
    return [
        *bounds,
        (_key(event, 4 * row + 2), x86.maximum(row, _LOW, row)),
        (_key(event, 4 * row + 3), x86.minimum(row, _HIGH, row)),
        (_key(event, 4 * row + 4), x86.store(x86.RDX, 0, row)),
        (_key(event, 4 * row + 5)[below], x86.add_register(x86.RDX, x86.RCX, int(below.sum()))),
        (_key(events, 4 * ROWS + 6), x86.leave(len(events))),
    ]
