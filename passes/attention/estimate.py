"""Time of attention, dense and over the blocks that are kept, before it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsecc.cost import roofline
from sparsecc.cost.model import UNMEASURED_SPREAD, Estimate, cost_model, total
from sparsecc.cost.rates import Kind, Sums
from sparsecc.passes.fuse.terms import Term
from sparsecc.targets import Target

_OPERANDS = 3
"""Queries, keys and values: tokens in the lanes for dense layers, in rows for sparse attention."""
_SHARE_OF_PEAK = 0.5
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

    def macs(self, scores: float) -> int:
        """Multiply-adds of so many scores of each head, in both products."""
        return int(2 * self.batch * self.heads * scores * self.dim)


def size_of(dims: Sequence[Term], dim: Term) -> Size:
    """The size of [batch, heads, queries, keys], open lengths as they are estimated."""
    batch, *others = dims
    heads, queries, keys = (each if isinstance(each, int) else LONG_TOKENS for each in others)
    one = batch if isinstance(batch, int) else roofline.UNKNOWN_BATCH
    return Size(one, heads, queries, keys, int(str(dim)))


def dense_ms(size: Size, target: Target) -> Estimate:
    """All scores."""
    return _attention(size, size.scores, target)


def kept_ms(size: Size, scores: float, target: Target) -> Estimate:
    """So many scores of each head, with tokens in rows, as what skips blocks wants them."""
    tokens = size.batch * size.heads * size.dim
    turned = _moved("from_t64", tokens * (size.queries + (_OPERANDS - 1) * size.keys), target)
    back = _moved("to_t64", tokens * size.queries, target)
    return total([_attention(size, scores, target), turned, back])


def _attention(size: Size, scores: float, target: Target) -> Estimate:
    macs = size.macs(scores)
    made = size.batch * size.heads * scores
    found = cost_model(target).step("attention", Sums(1, made, macs))
    return found or Estimate(2e-6 * macs / (_SHARE_OF_PEAK * target.peak_gflops), UNMEASURED_SPREAD)


def _moved(kind: Kind, elements: int, target: Target) -> Estimate:
    found = cost_model(target).step(kind, Sums(1, elements))
    return found or Estimate(8e-6 * elements / roofline.LAYOUT_GBS, UNMEASURED_SPREAD)
