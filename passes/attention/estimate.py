"""Time of attention, dense and over the blocks that are kept, before it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparsecc.cost import roofline
from sparsecc.cost.attention import work
from sparsecc.cost.model import UNMEASURED_SPREAD, Estimate, cost_model, total
from sparsecc.cost.rates import Kind, Sums
from sparsecc.passes.attention.modes import Pattern
from sparsecc.passes.attention.sets import Sets
from sparsecc.targets import Target

_OPERANDS = 3
"""Queries, keys and values: tokens in the lanes for dense layers, in rows for sparse attention."""
_SHARE_OF_PEAK = 0.5
_STRIP = 16
"""Keys that the kernel takes at once: those of a set are filled up to it."""
LONG_TOKENS = 1024
"""Tokens of an open length: what a mask saves grows with them, what it costs does not."""


@dataclass(frozen=True)
class Size:
    """How large an attention is."""

    batch: int
    heads: int
    queries: int
    keys: int
    dim: int

    @property
    def scores(self) -> int:
        """Of one head."""
        return self.queries * self.keys


def size_of(dims: Sequence[object], dim: object) -> Size:
    """The size of [batch, heads, queries, keys], open sizes as they are estimated."""
    open_sizes = (roofline.UNKNOWN_BATCH, 1, LONG_TOKENS, LONG_TOKENS, 1)
    sizes = zip((*dims, dim), open_sizes, strict=True)
    return Size(*(size if isinstance(size, int) else guess for size, guess in sizes))


def dense_ms(size: Size, target: Target) -> Estimate:
    """All scores."""
    return scored_ms(size, size.scores, target)


def kept_ms(size: Size, scores: float, target: Target) -> Estimate:
    """So many scores of each head, with tokens in rows, as what skips blocks wants them."""
    tokens = size.batch * size.heads * size.dim
    turned = _moved("from_t64", tokens * (size.queries + (_OPERANDS - 1) * size.keys), target)
    back = _moved("to_t64", tokens * size.queries, target)
    return total([scored_ms(size, scores, target), turned, back])


def sets_ms(size: Size, sets: Sets, target: Target) -> Estimate:
    """Every set by itself, with tokens moved into their slots and back."""
    count, slots = sets.tokens.shape
    each = replace(size, batch=size.batch * count, queries=slots, keys=slots)
    in_strips = slots * -(-slots // _STRIP) * _STRIP
    moved = 0 if sets.in_order else each.batch * each.heads * slots * size.dim
    return total([kept_ms(each, in_strips, target), _carried((_OPERANDS + 1) * moved)])


def head_ms(pattern: Pattern, tokens: int, dim: int, target: Target) -> float:
    """One head over the blocks of a pattern; one that keeps none is not there.

    In whatever order tokens are, the step reads all of them, packs keys and values and writes
    results: at 8,192 tokens of 64 features a tenth of the time where a twentieth is kept.
    """
    if not pattern.kept.any():
        return 0.0
    size = Size(1, 1, tokens, tokens, dim)
    moved = _carried((_OPERANDS + 1) * tokens * dim)
    return scored_ms(size, pattern.density * size.scores, target).ms + moved.ms


def scored_ms(size: Size, scores: float, target: Target) -> Estimate:
    """So many scores of each head, tokens as they lie."""
    sums = work(size.batch * size.heads * scores, size.dim)
    by_peak = 2e-6 * sums.macs / (_SHARE_OF_PEAK * target.peak_gflops)
    return cost_model(target).step("attention", sums) or Estimate(by_peak, UNMEASURED_SPREAD)


def _moved(kind: Kind, elements: int, target: Target) -> Estimate:
    found = cost_model(target).step(kind, Sums(1, elements))
    return found or _carried(elements)


def _carried(elements: int) -> Estimate:
    """So many numbers read in one place and written in another."""
    return Estimate(8e-6 * elements / roofline.LAYOUT_GBS, UNMEASURED_SPREAD)
