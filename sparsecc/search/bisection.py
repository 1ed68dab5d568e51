"""Bisection over a family of plans, from harmless to harmful, by what they measure."""

from __future__ import annotations

from collections.abc import Callable

from sparsecc.search.problem import Assignment
from sparsecc.search.scored import Scored, Scores

_HALVINGS = 40


def bisect(
    plan: Callable[[float], Assignment | None],
    harmless: float,
    harmful: float,
    met: Callable[[Scored], bool],
    scores: Scores,
    most: int,
) -> None:
    """Measure plans towards the last one of the family that keeps to the limit.

    A family whose drops are not monotone ends at some change from met to not met.

    Args:
        plan: Parameter of the family → its plan; None counts as harmful.
        harmless: Parameter whose plan is known to keep to the limit.
        harmful: Parameter at the other end.
        met: Whether a measured plan keeps to the limit.
        scores: Measures plans and keeps them.
        most: Plans to measure; those that are known already are free.
    """
    until = scores.left - most
    for _ in range(_HALVINGS):
        middle = (harmless + harmful) / 2
        assignment = plan(middle)
        if assignment is None:
            harmful = middle
            continue
        if not scores.known(assignment) and scores.left <= max(until, 0):
            return
        if met(scores.of(assignment)):
            harmless = middle
        else:
            harmful = middle
