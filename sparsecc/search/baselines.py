"""Other ways to choose a plan, for comparison: each a family of plans over one parameter.

A family is bisected like the knapsack's (:func:`bisection.bisect`), with as many measurements;
:func:`random_plans` measures at random instead. Parameters run from harmless to harmful.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from sparsecc.search.allocation import LayerShape, erk, owl
from sparsecc.search.problem import Assignment, Numbers, Problem
from sparsecc.search.scored import Scores

_DRAWS = 1000
"""Random plans looked at, for each that may be measured."""
_LOGARITHMS = 20.0
"""λ spans e^±20 around the model's time for a loss of 1."""

Densities = Callable[[float], Sequence[float]]
"""Density of the whole model → density of every layer."""


@dataclasses.dataclass(frozen=True)
class Family:
    """Plans over one parameter.

    Attributes:
        plan: Parameter → plan, or None where there is none.
        harmless: Parameter at the end that loses least.
        harmful: Parameter at the other end.
    """

    plan: Callable[[float], Assignment | None]
    harmless: float
    harmful: float


def uniform(problem: Problem) -> Family:
    """The same density in every layer."""
    return _by_density(problem, lambda density: [density] * len(problem.names))


def erdos_renyi(problem: Problem, shapes: Sequence[LayerShape]) -> Family:
    """Large layers sparser than small ones (:func:`allocation.erk`)."""
    return _by_density(problem, partial(erk, shapes))


def outliers(problem: Problem, shares: Sequence[float]) -> Family:
    """Layers with outliers denser (:func:`allocation.owl`)."""
    sizes = [float(each[0]) for each in problem.sizes]
    return _by_density(problem, partial(owl, shares, sizes))


def lagrangian(problem: Problem) -> Family:
    """Per layer the least of time + λ · loss; finds plans on the convex hull only.

    The parameter is the logarithm of λ, in milliseconds per loss.
    """
    unit = math.log(problem.ms(problem.dense) or 1.0)

    def plan(logarithm: float) -> Assignment:
        price = math.exp(logarithm)
        sums = (t + price * loss for t, loss in zip(problem.times, problem.losses, strict=True))
        return tuple(int(s.argmin()) for s in sums)

    return Family(plan, unit + _LOGARITHMS, unit - _LOGARITHMS)


def integer_program(problem: Problem) -> Family:
    """The exact least sum of losses within a time, by the solver HiGHS (extra ``search``)."""
    solve = partial(ilp, problem.losses, problem.times)
    fastest = problem.ms(tuple(int(t.argmin()) for t in problem.times))
    return Family(lambda ms: solve(ms - problem.fixed_ms), problem.ms(problem.dense), fastest)


def ilp(costs: Sequence[Numbers], resources: Sequence[Numbers], budget: float) -> Assignment | None:
    """What :func:`knapsack.cheapest` approximates, solved exactly, up to the solver's tolerance.

    Args:
        costs: Per layer ``[choices]``.
        resources: Per layer ``[choices]``.
        budget: Most that the resources may sum up to.

    Returns:
        Number of the choice per layer, or None when nothing fits.
    """
    import highspy

    solver = highspy.Highs()
    solver.silent()
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("threads", 1)
    picks = [[solver.addBinary() for _ in cost] for cost in costs]
    for pick in picks:
        solver.addConstr(sum(pick) == 1)
    solver.addConstr(_weighted(resources, picks) <= budget)
    solver.minimize(_weighted(costs, picks))
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    return tuple(int(np.argmax([solver.val(one) for one in pick])) for pick in picks)


def random_plans(problem: Problem, scores: Scores, limit: float, seed: int) -> None:
    """Measure random plans, as far as they could be the fastest within the allowed drop."""
    random = np.random.default_rng(seed)
    for _ in range(_DRAWS * scores.left):
        if not scores.left:
            return
        assignment = tuple(int(random.integers(len(t))) for t in problem.times)
        best = min(plan.ms for plan in scores.all if plan.drop <= limit)
        if problem.ms(assignment) < best and not scores.known(assignment):
            scores.of(assignment)


def _by_density(problem: Problem, densities: Densities) -> Family:
    """Per layer the choice whose bytes, as a share of the dense ones, come closest."""
    shares = [sizes / max(sizes[0], 1.0) for sizes in problem.sizes]

    def plan(density: float) -> Assignment:
        wanted = zip(shares, densities(density), strict=True)
        return tuple(int(np.abs(share - want).argmin()) for share, want in wanted)

    return Family(plan, 1.0, 0.0)


def _weighted(values: Sequence[Numbers], picks: Sequence[Sequence[Any]]) -> Any:
    return sum(
        float(value) * one
        for layer, pick in zip(values, picks, strict=True)
        for value, one in zip(layer, pick, strict=True)
    )
