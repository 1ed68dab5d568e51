"""SPDY's search (Frantar & Alistarh 2022): random coefficients of layers, then a hill climb.

The knapsack makes the best plan for given costs, but what a layer costs the whole model is not
known. So the costs of a layer are multiplied by a coefficient, and coefficients are sought whose
plan, measured end to end, is the best one. SPDY's own costs are (i/(n−1))²; here they are the
measured losses of the layers, where there are any (:func:`coefficients.base_losses`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sparsecc.search.problem import Assignment, Numbers
from sparsecc.search.scored import Scored, Scores

VECTORS = 100
"""Random coefficient vectors before the hill climb."""
RESAMPLED = 10
"""One layer in so many is changed by a step of the hill climb at first; at last it is one layer."""
PATIENCE = 30
"""Steps without a gain after which fewer layers are changed at once."""


def spdy(
    plan: Callable[[Numbers], Assignment | None],
    scores: Scores,
    rank: Callable[[Scored], Any],
    centre: Numbers,
    *,
    worth: Callable[[Assignment, Scored], bool] = lambda assignment, best: True,
    vectors: int = VECTORS,
    seed: int = 0,
) -> list[Scored]:
    """Search the coefficients of the layers for the best plan, as long as scores are left.

    Args:
        plan: The knapsack's plan for coefficients ``[layers]``, or None.
        scores: Measures plans; also bounds how many.
        rank: Sort key of a measured plan; the least is the best.
        centre: Mean of the random coefficients ``[layers]``; it is tried first.
        worth: Whether a plan should be measured, given the best one so far.
        vectors: Random vectors before the hill climb.
        seed: Of the random numbers; same seed, same search.

    Returns:
        Every plan measured so far, the best one first.
    """
    random = np.random.default_rng(seed)
    best = min(scores.all, key=rank)
    summit = centre

    def climb(coefficients: Numbers) -> bool:
        nonlocal best, summit
        assignment = plan(coefficients)
        if assignment is None or scores.known(assignment) or not worth(assignment, best):
            return False
        found = scores.of(assignment)
        if rank(found) >= rank(best):
            return False
        best, summit = found, coefficients
        return True

    if scores.left:
        climb(centre)
    for _ in range(vectors):
        if not scores.left:
            break
        climb(centre * _factors(random, len(centre)))
    changed = math.ceil(len(centre) / RESAMPLED)
    while changed and scores.left:
        failures = 0
        while failures < PATIENCE and scores.left:
            layers = random.choice(len(centre), changed, replace=False)
            trial = summit.copy()
            trial[layers] = centre[layers] * _factors(random, changed)
            failures = 0 if climb(trial) else failures + 1
        changed -= 1
    return sorted(scores.all, key=rank)


def _factors(random: np.random.Generator, count: int) -> Numbers:
    """Uniform on 0 to 2, so of mean 1."""
    return random.uniform(0, 2, count)
