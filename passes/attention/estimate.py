"""Time of attention, dense and over the blocks that are kept, before it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparsecc.backends.cuda.attention import FEATURES
from sparsecc.cost import roofline
from sparsecc.cost.attention import work
from sparsecc.cost.gpu.layers import TILES, Scores, attention
from sparsecc.cost.model import UNMEASURED_SPREAD, Estimate, cost_model, total
from sparsecc.cost.rates import Kind, Sums
from sparsecc.passes.attention.modes import Pattern
from sparsecc.passes.attention.sets import Sets
from sparsecc.targets import Target
from sparsecc.targets.cuda import arch_of_target

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


def why_not(dim: object, target: Target | None) -> str:
    """Why a target has no kernel that skips blocks for heads of so many features, or ""."""
    if target is None or target.family != "cuda" or dim in FEATURES:
        return ""
    sizes = " or ".join(map(str, FEATURES))
    return f"kernels for GPUs are for heads of {sizes} features, not {dim}"


def dense_ms(size: Size, target: Target) -> Estimate:
    """All scores."""
    if target.family == "cuda":
        return _on_gpu(size, size.scores, target)
    return scored_ms(size, size.scores, target)


def kept_ms(size: Size, scores: float, target: Target) -> Estimate:
    """So many scores of each head, with tokens in rows, as what skips blocks wants them."""
    if target.family == "cuda":
        return _on_gpu(size, scores, target)
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
    return total([kept_ms(each, in_strips, target), _carried((_OPERANDS + 1) * moved, target)])


def head_ms(pattern: Pattern, tokens: int, dim: int, target: Target) -> float:
    """One head over the blocks of a pattern; one that keeps none is not there.

    In whatever order tokens are, the step reads all of them, packs keys and values and writes
    results: at 8,192 tokens of 64 features a tenth of the time where a twentieth is kept.
    """
    if not pattern.kept.any():
        return 0.0
    size = Size(1, 1, tokens, tokens, dim)
    if target.family == "cuda":
        return _head_on_gpu(pattern, size, target)
    moved = _carried((_OPERANDS + 1) * tokens * dim, target)
    return scored_ms(size, pattern.density * size.scores, target).ms + moved.ms


def scored_ms(size: Size, scores: float, target: Target) -> Estimate:
    """So many scores of each head, tokens as they lie."""
    sums = work(size.batch * size.heads * scores, size.dim)
    by_peak = 2e-6 * sums.macs / (_SHARE_OF_PEAK * target.peak_gflops)
    return cost_model(target).step("attention", sums) or Estimate(by_peak, UNMEASURED_SPREAD)


def _on_gpu(size: Size, scores: float, target: Target) -> Estimate:
    """The kernel over kept tiles, all of them too; tokens stay where they are.

    Heads of other features go to a kernel like it: there is none of ours.
    """
    arch, dense = arch_of_target(target), size.dim not in FEATURES
    wanted = Scores(size.batch * size.heads, size.queries, size.keys, size.dim, scores)
    return cost_model(target).task(
        *(attention(wanted, arch, tall=tall, dense=dense) for tall in TILES)
    )


def _head_on_gpu(pattern: Pattern, size: Size, target: Target) -> float:
    """One of so many equal heads that the GPU is full, by the rows of tiles that it keeps."""
    arch, heads = arch_of_target(target), target.threads
    tasks = []
    for tall in TILES:
        starts = np.arange(0, len(pattern.kept), max(1, tall // pattern.block))
        rows = np.logical_or.reduceat(pattern.kept, starts).sum(1)
        kept = float(rows.sum()) / (len(starts) * pattern.kept.shape[1]) * size.scores
        longest = float(rows.max() / rows.mean())
        wanted = Scores(heads, size.queries, size.keys, size.dim, kept, longest)
        tasks.append(attention(wanted, arch, tall=tall))
    return cost_model(target).task(*tasks).ms / heads


def _moved(kind: Kind, elements: int, target: Target) -> Estimate:
    found = cost_model(target).step(kind, Sums(1, elements))
    return found or _carried(elements, target)


def _carried(elements: int, target: Target) -> Estimate:
    """So many numbers read in one place and written in another."""
    return Estimate(roofline.moved_ms(8.0 * elements, target), UNMEASURED_SPREAD)
