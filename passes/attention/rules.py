"""Which keys a mask leaves: a rule of distances, or a set of blocks, or of tokens, exactly.

A rule lets query i see key j when ``j <= i + right and (j >= i - left or j < sinks)``: causal is
``right = 0``, a sliding window has both sides, a streaming one sinks besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsecc.cost import attention as cost
from sparsecc.ops.attention_parts import UNBOUNDED
from sparsecc.ops.block_sparse_attention import seen_by_rule
from sparsecc.passes.attention.match import MASKED
from sparsecc.passes.attention.sets import Sets, sets_of
from sparsecc.passes.fuse.terms import Term

BLOCK = 64
"""Queries, and keys, of a block."""
BLIND = "a query that sees no key"
"""Nothing is made of such a mask: the op gives zeros where a softmax gives something else."""
_ROWS_AT_ONCE = 256
"""Rows compared at a time: so many stay in a cache."""
Flags = NDArray[np.bool_]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Rule:
    """Which keys queries see by their distance; by default all.

    Attributes:
        left: How far behind a key may be.
        right: How far ahead.
        sinks: So many first keys are seen from any distance ahead of them.
    """

    left: int = UNBOUNDED
    right: int = UNBOUNDED
    sinks: int = 0

    def seen(self, queries: int, keys: int, start: int = 0) -> Flags:
        """``[queries, keys]``, from the query `start` on."""
        return seen_by_rule(queries, keys, self.left - start, self.right + start, self.sinks)

    def __and__(self, other: Rule) -> Rule | None:
        """What both let be seen, if that is a rule."""
        right = min(self.right, other.right)
        ends = [each for each in (self, other) if each.left < UNBOUNDED]
        if len({each.sinks for each in ends}) > 1:
            return None
        left = min((each.left for each in ends), default=UNBOUNDED)
        return Rule(left, right, ends[0].sinks if ends else 0)

    def __or__(self, other: Rule) -> Rule | None:
        """What either lets be seen, if that is a rule."""
        if self.right != other.right:
            return None
        left = max(self.left, other.left)
        sinks = [each.sinks for each in (self, other)]
        return Rule(left, self.right, max(sinks) if left < UNBOUNDED else 0)

    def __invert__(self) -> Rule | None:
        """What it hides, if that is a rule."""
        if self.left == UNBOUNDED and self.right < UNBOUNDED:
            return Rule(left=-self.right - 1)
        if self.right == UNBOUNDED and self.left < UNBOUNDED and not self.sinks:
            return Rule(right=-self.left - 1)
        return None

    def sees_any(self, queries: Term, keys: Term) -> bool:
        """Whether every query is known to see a key, for lengths that may be open."""
        if self.right < 0:
            return False
        if self.sinks or self.left == UNBOUNDED or (queries == keys and self.left >= 0):
            return True
        known = isinstance(queries, int) and isinstance(keys, int)
        return known and int(str(queries)) - int(str(keys)) <= self.left

    @property
    def hides(self) -> bool:
        """Whether it leaves keys out at all, where there are enough."""
        return self != Rule()

    def scores(self, queries: int, keys: int) -> int:
        """How many scores of a head it leaves."""
        return cost.seen_by_rule(queries, keys, self.left, self.right, self.sinks)


@dataclass(frozen=True)
class Kept:
    """A constant mask taken apart.

    Attributes:
        rule: Keys outside of it are masked.
        blocks: ``[heads or 1, blocks of queries, blocks of keys]``: those with a key that is not
            masked; None where the rule says it all.
        mask: What has to be added still; None where rule and blocks are all of it.
        sets: Of tokens that see those of their own group alone, if that is what it leaves.
    """

    rule: Rule
    blocks: Flags | None = None
    mask: Floats | None = None
    sets: Sets | None = None

    def scores(self, queries: int, keys: int) -> float:
        """How many scores of a head are in kept blocks."""
        by_rule = self.rule.scores(queries, keys)
        if self.blocks is None:
            return by_rule
        rows, columns = (_sizes(size) for size in (queries, keys))
        return min(by_rule, float((self.blocks.mean(axis=0) * np.outer(rows, columns)).sum()))


def _sizes(size: int) -> NDArray[np.int64]:
    """Queries or keys of each block."""
    return np.diff(np.append(np.arange(0, size, BLOCK), size))


def take_apart(mask: Floats, *, zeros: bool = False) -> Kept | str:
    """What a mask that is added to scores leaves, or why nothing is made of it.

    Args:
        mask: ``[heads or 1, queries, keys]``.
        zeros: Whether a query whose keys are all at minus infinity gives zeros, as in the op.
    """
    if not mask.size:
        return "a mask without queries or keys"
    if not mask.max() < np.inf:
        return "a mask that is infinite or no number"
    if len(mask) > 1 and all(np.array_equal(mask[0], head) for head in mask[1:]):
        mask = mask[:1]
    seen = mask > MASKED
    blind = ~seen.any(axis=-1)
    if blind.any() and not (zeros and np.isneginf(mask[blind]).all()):
        return BLIND
    plain = not np.any(mask, where=seen)
    rule = rule_of(seen[0]) if len(seen) == 1 else None
    if rule is not None:
        return Kept(rule, None, None if plain else mask)
    together: Flags = np.logical_or.reduce(seen, axis=0)
    rule, blocks = enclosing(together), blocks_of(seen)
    exact = plain and all(
        np.array_equal(each, rule.seen(*each.shape) & spread(kept, *each.shape))
        for each, kept in zip(seen, blocks, strict=True)
    )
    alike = all(np.array_equal(each, together) for each in seen)
    sets = sets_of(together) if alike else None
    return Kept(rule, blocks, None if exact else mask, sets)


def rule_of(seen: Flags) -> Rule | None:
    """The rule that lets just these keys ``[queries, keys]`` be seen."""
    return next((rule for rule in _candidates(seen) if _agrees(rule, seen)), None)


def _candidates(seen: Flags) -> Iterator[Rule]:
    """Rules that the first and last keys of some queries suggest."""
    keys = seen.shape[1]
    any_key, first = seen.any(axis=1), seen.argmax(axis=1)
    last = np.where(any_key, keys - 1 - seen[:, ::-1].argmax(axis=1), -1)
    top = int(any_key.argmax())
    starts = np.flatnonzero(any_key & (first > 0))[:1].tolist()
    gaps = np.flatnonzero(any_key & (np.count_nonzero(seen, axis=1) < last + 1 - first))[-1:]
    for right in (UNBOUNDED, int(last[top]) - top):  # one that reaches the end bounds nothing
        yield Rule(right=right)
        for row in starts:
            yield Rule(row - int(first[row]), right)
        for row in gaps.tolist():
            sinks = int(seen[row].argmin())
            yield Rule(row - sinks - int(seen[row, sinks:].argmax()), right, sinks)
        ends = np.minimum(keys - 1, np.arange(len(seen)) + right)
        for row in np.flatnonzero(last < ends)[:1].tolist():  # its window is behind all keys
            yield Rule(row - keys, right, int(last[row]) + 1)


def _agrees(rule: Rule, seen: Flags) -> bool:
    """Whether a rule says the same of every query and key; some rows far apart are asked first."""
    queries, keys = seen.shape
    few = range(0, queries, max(1, queries // 8))
    return all(np.array_equal(rule.seen(1, keys, row)[0], seen[row]) for row in few) and all(
        np.array_equal(rule.seen(len(rows), keys, start), rows)
        for start in range(0, queries, _ROWS_AT_ONCE)
        for rows in (seen[start : start + _ROWS_AT_ONCE],)
    )


def enclosing(seen: Flags) -> Rule:
    """The narrowest rule without sinks that hides nothing of ``[queries, keys]`` that is seen."""
    keys = seen.shape[1]
    rows = np.flatnonzero(seen.any(axis=1))
    if not len(rows):
        return Rule()
    first = seen[rows].argmax(axis=1)
    last = keys - 1 - seen[rows][:, ::-1].argmax(axis=1)
    left, right = int((rows - first).max()), int((last - rows).max())
    # A side that reaches the end of what there is bounds nothing.
    return Rule(
        left if left < rows[-1] else UNBOUNDED, right if right < keys - 1 - rows[0] else UNBOUNDED
    )


def blocks_of(seen: Flags) -> Flags:
    """Blocks ``[heads, blocks of queries, blocks of keys]`` in which a key is seen."""
    _, queries, keys = seen.shape
    by_keys = np.logical_or.reduceat(seen, np.arange(0, keys, BLOCK), axis=2)
    found: Flags = np.logical_or.reduceat(by_keys, np.arange(0, queries, BLOCK), axis=1)
    return found


def spread(blocks: Flags, queries: int, keys: int) -> Flags:
    """The keys ``[queries, keys]`` in the blocks of one head."""
    whole = blocks.repeat(BLOCK, axis=0)[:queries].repeat(BLOCK, axis=1)
    return whole[:, :keys]


def grid_of(blocks: Flags) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """``index`` and ``grid`` as the op has them."""
    index = np.flatnonzero(blocks).astype(np.int32)
    return index, np.array([*blocks.shape, BLOCK, BLOCK], np.int64)
