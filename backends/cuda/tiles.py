"""Which tiles of scores an attention computes, packed as its kernel reads them: block-CSR.

A row is the queries of one tile. Its tiles of keys lie as full ones first, of which every score is
wanted, then partial ones: tiles that the rule, the end of the keys or a block smaller than the tile
cuts. Each has the squares of ``grain`` tokens that are kept as bits of a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsecc.errors import PlanError
from sparsecc.ops.attention_parts import UNBOUNDED

FAR = 2**30
"""Stands for no limit in a rule: a position less this, or with it, is still an int32."""
MOST_SQUARES = 31
"""Of a tile: the bits of an int32 that are no sign."""
MOST_TOKENS = FAR // 2
Flags = NDArray[np.bool_]
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Rule:
    """Query i sees key j when ``j <= i + right and (j >= i - left or j < sinks)``."""

    left: int = UNBOUNDED
    right: int = UNBOUNDED
    sinks: int = 0

    def within(self) -> Rule:
        """The same for sequences of up to :data:`MOST_TOKENS`, with sums that are int32."""
        return Rule(*(max(-FAR, min(FAR, each)) for each in (self.left, self.right, self.sinks)))


@dataclass(frozen=True)
class Tiles:
    """The tiles of an attention.

    Attributes:
        queries: Tokens.
        keys: Tokens.
        rows: Queries of a tile.
        columns: Keys of a tile.
        grain: Tokens along a side of a square.
        rule: What holds in partial tiles besides.
        heads: How many patterns there are: head h has pattern ``h % heads``.
        starts: Where rows begin in ``at``, ``[heads · tiles of queries + 1]``.
        full: Where the partial tiles of each row begin, ``[heads · tiles of queries]``.
        at: Tiles of keys, and one more behind the last, which is read but not used.
        bits: Squares of each, row by row from the lowest bit.
    """

    queries: int
    keys: int
    rows: int
    columns: int
    grain: int
    rule: Rule
    heads: int
    starts: Ints
    full: Ints
    at: Ints
    bits: Ints

    @property
    def down(self) -> int:
        """Tiles of queries of one head."""
        return math.ceil(self.queries / self.rows)

    @property
    def share(self) -> float:
        """Tiles that are computed, of all."""
        every = self.heads * self.down * self.across
        return (len(self.at) - 1) / max(1, every)

    @property
    def across(self) -> int:
        """Tiles of keys of one head."""
        return math.ceil(self.keys / self.columns)

    def by_keys(self) -> tuple[Ints, Ints, Ints, Ints]:
        """The same tiles listed by their keys: ``starts``, ``full``, ``at`` and ``bits``.

        Rows are ``pattern · across + tile of keys``, ``at`` has tiles of queries.
        """
        rows, count = len(self.full), len(self.at) - 1
        row = np.repeat(np.arange(rows), np.diff(self.starts))
        partial = np.arange(count) >= self.full[row]
        key = row // self.down * self.across + self.at[:-1]
        order = np.lexsort((row, partial, key))
        counts = np.bincount(key, minlength=self.heads * self.across)
        starts = np.concatenate([[0], np.cumsum(counts)])
        full = starts[:-1] + np.bincount(key[~partial], minlength=len(counts))
        at, bits = np.zeros_like(self.at), np.zeros_like(self.bits)
        at[:-1], bits[:-1] = (row % self.down)[order], self.bits[:-1][order]
        return starts.astype(np.int32), full.astype(np.int32), at, bits

    def order(self, heads: int) -> Ints:
        """The rows of so many heads, those with the most tiles first: ``head · down + tile``.

        Programs start in this order, so that the last to end are short ones.
        """
        counts = np.diff(self.starts).reshape(self.heads, self.down)
        every = counts[np.arange(heads) % self.heads].ravel()
        return np.argsort(-every, kind="stable").astype(np.int32)


def pack(
    queries: int,
    keys: int,
    tile: tuple[int, int],
    *,
    kept: Flags | None = None,
    block: tuple[int, int] = (64, 64),
    rule: Rule | None = None,
) -> Tiles:
    """The tiles that hold what a rule and a set of blocks keep.

    Args:
        queries: Tokens.
        keys: Tokens.
        tile: Queries and keys of a tile.
        kept: Blocks ``[patterns, down, across]``; by default all.
        block: Queries and keys of a block; the last may be cut.
        rule: By default everything is seen.

    Raises:
        PlanError: The blocks are not of these tokens, or cut a tile into too many squares.
    """
    rule = (rule or Rule()).within()
    if kept is None:
        kept, block = np.ones((1, math.ceil(queries / tile[0]), 1), bool), (tile[0], keys or 1)
        grain = math.gcd(*tile)
    else:
        grain = math.gcd(*tile, *block)
    _check(queries, keys, tile, grain, kept, block)
    down, across = math.ceil(queries / tile[0]), math.ceil(keys / tile[1])
    sides = tile[0] // grain, tile[1] // grain
    real = [
        np.arange(count * side) * grain < tokens
        for count, side, tokens in zip((down, across), sides, (queries, keys), strict=True)
    ]
    which = [
        np.minimum(np.arange(len(inside)) * grain // size, blocks - 1)
        for inside, size, blocks in zip(real, block, kept.shape[1:], strict=True)
    ]
    fine = kept[:, which[0]][:, :, which[1]] & real[0][:, None] & real[1]
    some, every = _seen_by_rule(rule, queries, keys, tile)
    some = some & _squares(fine, sides).any(-1)
    every = every & _squares(fine | ~real[0][:, None], sides).all(-1)
    powers = 1 << np.arange(sides[0] * sides[1], dtype=np.int32)
    bits = (_squares(fine, sides) @ powers).astype(np.int32)
    starts, full, at, bits = _rows(some & every, some & ~every, bits)
    return Tiles(queries, keys, *tile, grain, rule, len(kept), starts, full, at, bits)


def _check(
    queries: int,
    keys: int,
    tile: tuple[int, int],
    grain: int,
    kept: Flags,
    block: tuple[int, int],
) -> None:
    wanted = tuple(
        math.ceil(tokens / size) for tokens, size in zip((queries, keys), block, strict=True)
    )
    if not 0 < min(queries, keys) <= max(queries, keys) <= MOST_TOKENS:
        raise PlanError(
            f"an attention of {queries} queries and {keys} keys",
            fix=f"kernels take 1 to {MOST_TOKENS} of each",
        )
    if kept.ndim != len(("patterns", *wanted)) or not len(kept) or kept.shape[1:] != wanted:
        raise PlanError(
            f"blocks {list(kept.shape)} of {block[0]} × {block[1]} tokens do not cover {queries} "
            f"queries and {keys} keys",
            fix=f"give [patterns, {wanted[0]}, {wanted[1]}]",
        )
    squares = (tile[0] // grain) * (tile[1] // grain)
    if squares > MOST_SQUARES:
        raise PlanError(
            f"blocks of {block[0]} × {block[1]} tokens cut a tile of {tile[0]} × {tile[1]} into "
            f"{squares} squares, of at most {MOST_SQUARES}",
            fix="use blocks of a multiple of 32 tokens, such as 64",
        )


def _squares(fine: Flags, sides: tuple[int, int]) -> Flags:
    """``[heads, tiles down, tiles across, squares of a tile]`` of ``[heads, down, across]``."""
    heads, down, across = fine.shape
    cut = fine.reshape(heads, down // sides[0], sides[0], across // sides[1], sides[1])
    moved = cut.transpose(0, 1, 3, 2, 4)
    return moved.reshape(*moved.shape[:3], sides[0] * sides[1])


def _seen_by_rule(
    rule: Rule, queries: int, keys: int, tile: tuple[int, int]
) -> tuple[Flags, Flags]:
    """Of which tiles a rule may let some pair be seen, and of which it lets all of them."""
    first = np.arange(0, queries, tile[0])[:, None]
    last = np.minimum(first + tile[0], queries) - 1
    left = np.arange(0, keys, tile[1])
    end = left + tile[1] - 1
    some = (left <= last + rule.right) & ((end >= first - rule.left) | (left < rule.sinks))
    every = (end <= first + rule.right) & ((left >= last - rule.left) | (end < rule.sinks))
    return some, every & (end < keys)


def _rows(full: Flags, partial: Flags, bits: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Starts of rows, of their partial tiles, tiles of keys, and bits; all of ``[heads, d, a]``."""
    across = full.shape[-1]
    kinds = [each.reshape(-1, across) for each in (full, partial)]
    counts = [each.sum(1) for each in kinds]
    starts = np.concatenate([[0], np.cumsum(counts[0] + counts[1])])
    begins = [starts[:-1], starts[:-1] + counts[0]]
    at, flat = np.zeros(starts[-1] + 1, np.int32), bits.reshape(-1, across)
    packed = np.zeros_like(at)
    for kind, count, begin in zip(kinds, counts, begins, strict=True):
        row, column = np.nonzero(kind)
        before = np.concatenate([[0], np.cumsum(count)[:-1]])
        place = begin[row] + np.arange(len(row)) - before[row]
        at[place], packed[place] = column, flat[row, column]
    return starts.astype(np.int32), begins[1].astype(np.int32), at, packed
