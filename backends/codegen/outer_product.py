"""Machine code of an unstructured weight on AVX-512: an outer product with its sums in registers.

The weight is cut into cells: strips of output rows, and chunks of its inputs. The code of a cell
computes one vector of 16 pixels or tokens for each row of its strip. It loads an input that the
cell uses once, and multiplies it by one broadcast weight for each row with a non-zero there: one
instruction of seven bytes per non-zero. Positions are in the code, weights are not: they stream by
in the order of their use, so the code belongs to a pattern of zeros and serves whatever values
fill it.

Inputs come as a panel ``[K][16]``, 64-byte aligned. The stream of a cell is the biases of its rows
in the first chunk, then its weights by column, then row. A cell is a C function of the System V
convention::

    void cell(const float *panel,   // WINDOW / 2 vectors into its inputs
              const float *stream,  // WINDOW / 2 floats into it
              float *y,             // last chunk: 16 results of the strip's first row
              i64 pitch,            // last chunk: bytes to those of the next row
              const struct {
                float low, high;    // last chunk: least and greatest result
                const void *code, *weights;  // what runs after this
              } *beside,
              float *sums);         // [rows][16] of the strip, from chunk to chunk

Code is slow the first time: the processor foresees data, but not code, and decodes it, from the
second-level cache at best. Hence cells: they are small enough to run from the decoded cache for
all panels but the first, and for a few strips to share their inputs in the first-level cache. And
between its products a cell prefetches the code and the weights that come next, a line every
:data:`EVERY` of them: at once they would fill the queue of misses. Measured with 90 % zeros and 64
tokens in GFLOP/s: whole strips 28, cells that are prefetched at once 103, evenly 137.

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
CELL = 2400
"""Non-zeros of a cell, about: its code takes half of what the processor keeps decoded. Measured on
whole models: of 800 they take 2 to 5 % longer, since sums pass between more chunks.
"""
LEAST_CHUNK, LARGEST_CHUNK = 128, 512
"""Inputs of a chunk: sums go through memory between chunks, inputs come from first-level cache."""
EVERY = 16
"""Non-zeros from a prefetch to the next: four panels fetch all of a block like theirs."""
KINDS = 3
"""Of so many prefetches the last is one of weights, the others are of code."""
LINE_BYTES = 64
_INPUT, _LOW, _HIGH = 30, 30, 31

Numbers = NDArray[np.int64]
Part = tuple[Numbers, x86.Instructions]


@dataclass(frozen=True)
class OuterProduct:
    """Code of one pattern of zeros.

    Attributes:
        code: Machine code of all cells, by chunk, then strip.
        entries: ``[chunks * strips]``: where each cell begins in it.
        streams: ``[chunks * strips + 1]``: where each cell's stream begins, in floats, and the end.
        chunks: How many parts the inputs are cut into.
    """

    code: NDArray[np.uint8]
    entries: Numbers
    streams: Numbers
    chunks: int


@dataclass(frozen=True)
class _Cells:
    """Cells of a weight, by chunk, then strip.

    Attributes:
        heights: Rows of each.
        first: Whether it is one of the first chunk, whose sums begin with biases.
        last: Whether it is one of the last chunk, whose sums are results.
        begins: Event of its beginning in the order of all events.
        ends: Event of its end.
    """

    heights: Numbers
    first: NDArray[np.bool_]
    last: NDArray[np.bool_]
    begins: Numbers
    ends: Numbers


@dataclass(frozen=True)
class _Uses:
    """Non-zeros in the order of the code, by cell, column and row within the strip.

    Attributes:
        cell: Number of its cell.
        column: Counted from the first of its chunk.
        row: Counted from the first of its strip.
        event: Place in the order of all events: a cell's beginning, its non-zeros, its end.
        stream: Place in the cell's stream.
    """

    cell: Numbers
    column: Numbers
    row: Numbers
    event: Numbers
    stream: Numbers


def strip_bounds(rows: int) -> Numbers:
    """First row of each strip, and the end; strips are equally tall to within a row."""
    return _equal_parts(rows, math.ceil(rows / ROWS))


def chunk_bounds(count: int, rows: int, depth: int) -> Numbers:
    """First input of each chunk, and the end; chunks are equally long to within an input.

    Args:
        count: Non-zeros of ``W[rows, depth]``.
        rows: Outputs.
        depth: Inputs of an output.
    """
    per_input = max(count, 1) / (rows * depth) * min(rows, ROWS)
    length = min(max(CELL / per_input, LEAST_CHUNK), LARGEST_CHUNK)
    return _equal_parts(depth, max(1, round(depth / length)))


def _equal_parts(size: int, parts: int) -> Numbers:
    return size * np.arange(parts + 1, dtype=np.int64) // parts


def outer_product(index: NDArray[np.int32], rows: int, depth: int) -> OuterProduct:
    """Generate the code of a pattern of zeros of ``W[rows, depth]``.

    Args:
        index: Ascending positions ``row * depth + column`` of the non-zeros.
        rows: Outputs, at least one.
        depth: Inputs of an output.
    """
    tops, lefts = strip_bounds(rows), chunk_bounds(len(index), rows, depth)
    strips, chunks = len(tops) - 1, len(lefts) - 1
    row, column = np.divmod(index.astype(np.int64), depth)
    strip = np.searchsorted(tops, row, side="right") - 1
    chunk = np.searchsorted(lefts, column, side="right") - 1
    cell, row = chunk * strips + strip, row - tops[strip]
    order = np.argsort((strip * depth + column + chunk * strips * depth) * ROWS + row)
    cell, column, row = cell[order], (column - lefts[chunk])[order], row[order]
    count = np.bincount(cell, minlength=chunks * strips)
    number = np.arange(len(row), dtype=np.int64)
    heights, which = np.tile(np.diff(tops), chunks), np.repeat(np.arange(chunks), strips)
    biases = np.where(which == 0, heights, 0)
    begins = np.cumsum(count + 2) - (count + 2)
    cells = _Cells(heights, which == 0, which == chunks - 1, begins, begins + count + 1)
    within = number - (np.cumsum(count) - count)[cell]
    uses = _Uses(cell, column, row, number + 2 * cell + 1, biases[cell] + within)
    parts = [
        *_starts(cells),
        *_inputs(uses),
        *_products(uses),
        *_prefetches(uses, within),
        *_sums(cells),
        *_results(cells),
    ]
    code, keys, at = x86.assemble(parts)
    streams = np.concatenate([[0], np.cumsum(count + biases)])
    return OuterProduct(code, at[np.searchsorted(keys, _key(begins, 0))], streams, chunks)


def _key(event: Numbers, place: Numbers | int) -> Numbers:
    """Order of an instruction: by event, then by its place in it."""
    return event * (4 * ROWS + 8) + place


def _each_row(heights: Numbers, events: Numbers) -> tuple[Numbers, Numbers]:
    """For every row of every cell: its cell's event, its number in the strip."""
    first = np.cumsum(heights) - heights
    row = np.arange(heights.sum(), dtype=np.int64) - np.repeat(first, heights)
    return np.repeat(events, heights), row


def _starts(cells: _Cells) -> list[Part]:
    """Sums that begin with biases, or with what the chunk before left."""
    event, row = _each_row(cells.heights[cells.first], cells.begins[cells.first])
    biases = x86.broadcast(row, x86.RSI, 4 * (row - WINDOW // 2))
    later, line = _each_row(cells.heights[~cells.first], cells.begins[~cells.first])
    count = len(cells.begins)
    return [
        (_key(cells.begins, 0), x86.pointer(x86.R10, x86.R8, 8, count)),
        (_key(cells.begins, 1), x86.pointer(x86.R11, x86.R8, 16, count)),
        (_key(event, row + 2), biases),
        (_key(later, line + 2), x86.load(line, x86.R9, VECTOR_BYTES * line)),
    ]


def _inputs(uses: _Uses) -> list[Part]:
    """A load of each input before the first weight that uses it."""
    cell, column = uses.cell, uses.column
    new = np.ones(len(cell), bool)
    new[1:] = (cell[1:] != cell[:-1]) | (column[1:] != column[:-1])
    event = uses.event[new]
    window, within = np.divmod(column[new], WINDOW)
    loads = x86.load(_INPUT, x86.RDI, VECTOR_BYTES * (within - WINDOW // 2))
    steps = _steps(x86.RDI, VECTOR_BYTES * WINDOW, cell[new], window, event, 0)
    return [steps, (_key(event, 1), loads)]


def _products(uses: _Uses) -> list[Part]:
    window, within = np.divmod(uses.stream, WINDOW)
    at = 4 * (within - WINDOW // 2)
    steps = _steps(x86.RSI, 4 * WINDOW, uses.cell, window, uses.event, 2)
    return [steps, (_key(uses.event, 3), x86.fma_broadcast(uses.row, _INPUT, x86.RSI, at))]


def _prefetches(uses: _Uses, within: Numbers) -> list[Part]:
    """Prefetches of what comes next; ``within`` numbers the non-zeros of each cell."""
    here = within % EVERY == EVERY // 2
    number, event = within[here] // EVERY, uses.event[here]
    weights = number % KINDS == KINDS - 1
    block, place = np.divmod(number, KINDS)
    code_lines = (block * (KINDS - 1) + place)[~weights]
    return [
        (_key(event[~weights], 4), x86.prefetch(x86.R10, LINE_BYTES * code_lines)),
        (_key(event[weights], 4), x86.prefetch(x86.R11, LINE_BYTES * block[weights])),
    ]


def _steps(
    register: int, size: int, cell: Numbers, window: Numbers, event: Numbers, place: int
) -> Part:
    """Additions to a pointer where the next window begins."""
    before = np.zeros_like(window)
    before[1:] = np.where(cell[1:] == cell[:-1], window[:-1], 0)
    moved = window != before
    return _key(event[moved], place), x86.add(register, size * (window - before)[moved])


def _sums(cells: _Cells) -> list[Part]:
    """Sums kept for the next chunk, and the way back."""
    heights, events = cells.heights[~cells.last], cells.ends[~cells.last]
    event, row = _each_row(heights, events)
    return [
        (_key(event, row), x86.store(x86.R9, VECTOR_BYTES * row, row)),
        (_key(events, 4 * ROWS + 6), x86.leave(len(events))),
    ]


def _results(cells: _Cells) -> list[Part]:
    """Sums clamped and stored, and the way back."""
    heights, events = cells.heights[cells.last], cells.ends[cells.last]
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
