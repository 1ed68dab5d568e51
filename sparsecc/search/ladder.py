"""Plans by rising loss: which one to carry out next.

Measured drops are noisy, and the plan that measures best of many is often the luckiest one. Here
plans are ordered by one smooth number instead: the sum of the layers' losses, weighted as what was
measured end to end says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsecc.search.coefficients import base_losses, fit, weighted
from sparsecc.search.knapsack import cheapest
from sparsecc.search.problem import Assignment, Problem
from sparsecc.search.scored import Scored

ROOM = 0.85
"""A plan that uses this share of its budget needs no further trial."""
_AIM = 0.95
"""Share of the budget that the next trial is made for."""
_MOST_STEP = 3.0
"""How much more or less the next trial may lose than the one before, at most."""
_LEAST_STEP = 1.3
"""How much less, besides, where that one lost too much: a drop may be lucky once, and not again."""


class Ladder:
    """The fastest plan for every level of loss.

    Args:
        problem: What plans are of.
        scored: Plans that were measured end to end.
        limit: The drop that is allowed.
    """

    def __init__(self, problem: Problem, scored: Sequence[Scored], limit: float) -> None:
        losses = base_losses(problem)
        self._problem = problem
        self._losses = weighted(fit(losses, scored, limit), losses)
        self._tried: set[Assignment] = set()
        self._good, self._bad = 0.0, float("inf")

    def next(self, step: Assignment, used: float) -> Assignment | None:
        """The plan to carry out after another, or None where there is nothing to gain.

        Args:
            step: The plan that was carried out.
            used: Share of the limit that it took; above 1 it lost too much.
        """
        self._tried.add(step)
        level = self._level(step)
        if used <= 1:
            self._good = max(self._good, level)
        else:
            self._bad = min(self._bad, level)
        if ROOM <= used <= 1 or self._good >= self._bad:
            return None
        factor = float(np.clip(_AIM / max(used, 1e-9), 1 / _MOST_STEP, _MOST_STEP))
        level *= factor if used <= 1 else factor / _LEAST_STEP
        if not self._good < level < self._bad:
            level = (self._good + min(self._bad, 2 * level)) / 2
        plan = cheapest(self._problem.times, self._losses, level)
        return None if plan in self._tried else plan

    def _level(self, plan: Assignment) -> float:
        return float(sum(loss[choice] for loss, choice in zip(self._losses, plan, strict=True)))


__all__ = ["ROOM", "Ladder"]
