"""Multiple-choice knapsack: one choice per layer, least cost within a budget.

The dynamic program keeps, per bucket of the budget, the least cost of the layers so far. Resources
are rounded UP to buckets: rounded to the nearest, as SPDY does, a plan can overshoot. What a layer
needs whatever is chosen, its least resource, is taken off the budget first, so rounding touches
only what choices differ by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsecc.search.problem import Assignment, Numbers

BUCKETS = 10_000
_SNAP = 1e-9
"""Part of a bucket that is taken for rounding of floats: 3.0000000001 buckets are 3."""


def cheapest(
    costs: Sequence[Numbers], resources: Sequence[Numbers], budget: float, buckets: int = BUCKETS
) -> Assignment | None:
    """The choices of least total cost whose resources sum up to at most ``budget``.

    With losses as costs and times as resources it is the best plan in a given time; with the two
    exchanged, the fastest plan of a given loss. The sum of the resources, rounded correctly, never
    exceeds the budget. The cost is the least there is where resources are multiples of a bucket,
    and never above the least of a budget with ``1 − (layers + 1) / buckets`` of the slack, which is
    what a budget leaves above the sum of the layers' least resources.

    Args:
        costs: Per layer ``[choices]``, finite; a choice that costs no more and needs no more than
            another stands in for it, the first of equals.
        resources: Per layer ``[choices]``, finite, at least 0, in the unit of the budget.
        budget: Most that the resources may sum up to; infinity for no limit.
        buckets: How many the slack is cut into.

    Returns:
        Number of the choice per layer, or None when even the least resources exceed the budget.
    """
    fronts = [pareto(c, r) for c, r in zip(costs, resources, strict=True)]
    needs = [resource[front] for resource, front in zip(resources, fronts, strict=True)]
    prices = [cost[front] for cost, front in zip(costs, fronts, strict=True)]
    least = [float(need[0]) for need in needs]
    if math.fsum(least) > budget:
        return None
    if math.fsum(float(need[-1]) for need in needs) <= budget:
        return tuple(int(front[-1]) for front in fronts)
    slack = math.fsum([budget, *(-need for need in least)])
    units = [_units(need - need[0], slack, buckets) for need in needs]
    picks = _solve(prices, units, buckets)
    total = math.fsum(float(need[pick]) for need, pick in zip(needs, picks, strict=True))
    if total > budget:  # by what snapping gave away, which is less than a bucket
        picks = _solve(prices, units, buckets - 1)
    return tuple(int(front[pick]) for front, pick in zip(fronts, picks, strict=True))


def pareto(costs: Numbers, resources: Numbers) -> NDArray[np.intp]:
    """Choices of one layer that no other beats, by rising resource and thus falling cost.

    Of choices that are equal in both the first one stays.
    """
    order = np.lexsort((costs, resources))  # stable, so the first of equals comes first
    falling = costs[order]
    best_before = np.concatenate(([np.inf], np.minimum.accumulate(falling)[:-1]))
    return order[falling < best_before]


def _units(extra: Numbers, slack: float, buckets: int) -> NDArray[np.int64]:
    """Buckets that each choice takes; one that alone exceeds the slack takes one too many."""
    if slack <= 0:
        return np.where(extra > 0, buckets + 1, 0).astype(np.int64)
    scaled = np.minimum(extra / slack, 2.0) * buckets
    return np.minimum(np.ceil(scaled - _SNAP), buckets + 1).astype(np.int64)


def _solve(
    prices: Sequence[Numbers], units: Sequence[NDArray[np.int64]], capacity: int
) -> list[int]:
    """Choice per layer; the first choice of a layer takes no bucket, so a solution exists."""
    best = np.zeros(capacity + 1)
    picks: list[NDArray[np.int16]] = []
    for price, unit in zip(prices, units, strict=True):
        after = best + price[0]
        pick = np.zeros(capacity + 1, np.int16)
        for choice in range(1, len(price)):
            if unit[choice] > capacity:
                continue
            taken = after[unit[choice] :]  # a view: what is written below lands in `after`
            rival = best[: len(taken)] + price[choice]
            better = rival < taken
            taken[better] = rival[better]
            pick[unit[choice] :][better] = choice
        best = after
        picks.append(pick)
    left = capacity
    chosen: list[int] = []
    for pick, unit in zip(reversed(picks), reversed(units), strict=True):
        chosen.append(int(pick[left]))
        left -= int(unit[chosen[-1]])
    return chosen[::-1]
