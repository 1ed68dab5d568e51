"""What an attention computes, as the rate of that name counts it."""

from __future__ import annotations

import numpy as np

from sparsecc.cost.rates import Sums
from sparsecc.ops import UNBOUNDED


def seen_by_rule(
    queries: int, keys: int, left: int = UNBOUNDED, right: int = UNBOUNDED, sinks: int = 0
) -> int:
    """How many scores of one head a rule leaves (``sparsecc.ops.RULE``)."""
    i = np.arange(queries, dtype=np.int64)
    end = np.clip(i + right + 1, 0, keys)
    begin = np.clip(i - left, 0, keys)
    first = np.minimum(sinks, end)
    return int(np.sum(first + np.maximum(0, end - np.maximum(begin, first))))


def work(scores: float, dim: int) -> Sums:
    """Of so many scores that are computed, of heads with ``dim`` features."""
    return Sums(1, scores, 2 * scores * dim)
