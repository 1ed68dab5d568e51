"""The settings of steps of attention, in the order of ``attention.c``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsecc.ops import UNBOUNDED

ROWS, TOKENS_FIRST, HEADS_FIRST = range(3)
"""How the heads of an operand lie: ``[batch, tokens, features]`` (of one batch without it; the
features may be two dimensions, heads and features of one), ``[tokens, batch, features]``,
``[batch, heads, tokens, features of one]``."""
NONE, CONSTANT, INPUT = range(3)
"""Whether there are blocks or a mask, and where they come from."""
MOST_DIM = 256
"""Features of a head that the library has room for."""


@dataclass(frozen=True)
class Attention:
    """One attention.

    Attributes:
        heads: Of queries.
        groups: Heads of keys and values; a divisor of ``heads``.
        dim: Features of a head.
        layouts: Of queries, keys, values and results.
        offsets: First columns of queries, keys and values; heads, counted in features, where heads
            come before tokens.
        scale: What products of queries and keys are multiplied by.
        left: Of the rule, as are ``right`` and ``sinks``.
        hides: Whether a score that is too low hides its key, so that a query which sees none gives
            zeros; otherwise it gives the mean of all values.
        blocks: Where the index of kept blocks comes from; their grid is a constant.
        mask: Where the mask comes from.
        ordered: Whether a constant says in which order tokens are read, and results written.
    """

    heads: int
    groups: int
    dim: int
    scale: float
    layouts: tuple[int, int, int, int] = (ROWS,) * 4
    offsets: tuple[int, int, int] = (0, 0, 0)
    left: int = UNBOUNDED
    right: int = UNBOUNDED
    sinks: int = 0
    hides: bool = False
    blocks: int = NONE
    mask: int = NONE
    ordered: bool = False

    @property
    def attributes(self) -> tuple[int, ...]:
        """The attributes of the step."""
        return (
            *(self.heads, self.groups, self.dim, *self.layouts, *self.offsets),
            *(_bits(self.scale), int(self.hides)),
            *(self.left, self.right, self.sinks, self.blocks, self.mask, int(self.ordered)),
        )

    @property
    def fits_lanes(self) -> bool:
        """Whether it runs with tokens in the lanes too."""
        dense = self.left == self.right == UNBOUNDED and self.blocks == NONE
        dense = dense and not (self.hides or self.ordered)
        return dense and self.heads == self.groups and set(self.layouts) == {ROWS}


def tokens_of(dims: Sequence[int], layout: int) -> int:
    """How many tokens an operand of a layout has."""
    if layout == HEADS_FIRST:
        return dims[2]
    return dims[0] if layout == TOKENS_FIRST or len(dims) == 2 else dims[1]


def read(attributes: Sequence[int]) -> Attention:
    """The attention of a step's attributes."""
    heads, groups, dim, *rest = attributes
    layouts, offsets, (scale, hides, left, right, sinks, blocks, mask, ordered) = (
        rest[:4],
        rest[4:7],
        rest[7:],
    )
    return Attention(
        heads=heads,
        groups=groups,
        dim=dim,
        scale=float(np.array(scale, np.uint32).view(np.float32)),
        layouts=(layouts[0], layouts[1], layouts[2], layouts[3]),
        offsets=(offsets[0], offsets[1], offsets[2]),
        left=left,
        right=right,
        sinks=sinks,
        hides=bool(hides),
        blocks=blocks,
        mask=mask,
        ordered=bool(ordered),
    )


@dataclass(frozen=True)
class Search:
    """One search of blocks, the settings of an ``attention_blocks`` step.

    Attributes:
        heads: Of queries.
        groups: Heads of keys; a divisor of ``heads``.
        dim: Features of a head.
        scale: What products of queries and keys are multiplied by.
        full: Steps below keep every block.
        sparsity: The share of blocks that is left out.
        words: Tokens that stand for words, before and behind all others.
        searches: Steps that search.
        layouts: Of queries and keys.
        offsets: First columns of queries and keys.
    """

    heads: int
    groups: int
    dim: int
    scale: float
    full: int
    sparsity: float
    words: tuple[int, int]
    searches: tuple[int, ...]
    layouts: tuple[int, int] = (ROWS, ROWS)
    offsets: tuple[int, int] = (0, 0)

    @property
    def attributes(self) -> tuple[int, ...]:
        """The attributes of the step, in the order of ``attention_blocks.c``."""
        return (
            *(self.heads, self.groups, self.dim, *self.layouts, *self.offsets),
            *(_bits(self.scale), self.full, _bits(self.sparsity), *self.words, *self.searches),
        )


def _bits(number: float) -> int:
    return int(np.float32(number).view(np.uint32))
