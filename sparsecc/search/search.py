"""The search for a plan: the fastest within a loss, or the least loss within a time or a size.

Measuring a plan end to end takes seconds, so few are. The knapsack proposes plans by the losses of
single layers; what a proposal then measures corrects the coefficients of the layers (see
:mod:`sparsecc.search.coefficients`), and the knapsack proposes again, for the coefficients that fit
or, when that is nothing new, for random ones around them. SPDY's hill climb, which strays further,
uses what measurements are left when that too is nothing new.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np

from sparsecc.errors import PlanError
from sparsecc.progress import Progress, silent
from sparsecc.search.bisection import bisect
from sparsecc.search.coefficients import base_losses, fit, weighted
from sparsecc.search.knapsack import cheapest, pareto
from sparsecc.search.problem import Assignment, Numbers, Problem
from sparsecc.search.scored import Score, Scored, Scores
from sparsecc.search.spdy import spdy

Kind = Literal["drop", "ms", "bytes"]
"""What is limited: the drop of quality, the time of the model, the bytes of its weights."""
Mode = Literal["fast", "thorough"]
MODES: tuple[Mode, ...] = ("fast", "thorough")

SCORES: dict[Mode, int] = {"fast": 12, "thorough": 60}
"""Plans measured end to end, at most."""
_BISECTIONS = 4
_DRAWS = 100
"""Random coefficients tried for a plan that is new."""
_DOUBT = 0.35
"""Standard deviation of the logarithm of a coefficient around the fitted one."""
_SHARES = (1.0, 0.97, 0.94, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 1.05, 1.1, 1.2)
"""Shares of the allowed drop that plans are made for, in the order they are tried: what the fit
says of a plan may be wrong either way."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        scored: Every plan that was measured, and the dense one; the best first.
        chosen: The best one.
        met: Whether it keeps to the limit.
    """

    scored: tuple[Scored, ...]
    chosen: Scored
    met: bool


class Planner(Protocol):
    """Coefficients ``[layers]`` and a share of the limit → the knapsack's plan, if there is one."""

    def __call__(self, coefficients: Numbers, share: float) -> Assignment | None: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class Goal:
    """What makes a plan good, and how the knapsack makes one.

    Attributes:
        plan: Makes one.
        shares: Of the limit, that plans are made for, in this order.
        met: Whether a measured plan keeps to the limit.
        rank: Sort key of a measured plan; the least is the best.
        worth: Whether a plan could beat the best so far, by what is known without measuring.
        near: The drop at which coefficients should be right, given the best plan so far.
    """

    plan: Planner
    shares: tuple[float, ...]
    met: Callable[[Scored], bool]
    rank: Callable[[Scored], Any]
    worth: Callable[[Assignment, Scored], bool]
    near: Callable[[Scored], float]


def search(
    problem: Problem,
    score: Score,
    *,
    kind: Kind,
    limit: float,
    mode: Mode = "fast",
    seed: int = 0,
    progress: Progress = silent,
) -> Found:
    """Look for the best plan.

    Args:
        problem: Layers, their choices, and what is known of them.
        score: Drop of quality of a plan, measured end to end against the dense model (which is not
            measured: its drop is 0). It need not be exact or monotone.
        kind: What is limited. ``drop``: the fastest plan that measures at most so much.
            ``ms`` or ``bytes``: the plan of the least drop that takes at most so much.
        limit: A share of the dense model's quality, milliseconds of the whole model, or bytes of
            the weights of the layers.
        mode: How many plans are measured: at most 12, or those and 48 more.
        seed: Of random coefficients; the same inputs give the same result.
        progress: Told after each measurement.

    Returns:
        The plans and the chosen one. Where no plan keeps to the limit it is the one that comes
        closest to it, not met.

    Raises:
        PlanError: The limit is negative or not a number.
    """
    if not limit >= 0:
        raise PlanError(f"the limit of {kind} is {limit}", fix="give a number of at least 0")
    scores = Scores(problem, score, SCORES[mode], progress)
    losses = base_losses(problem)
    if kind == "drop":
        goal = within_drop(problem, losses, limit)
        in_time = partial(_cheapest, losses, problem.times, problem.fixed_ms)
        slowest = problem.ms(problem.dense)
        fastest = problem.ms(tuple(int(t.argmin()) for t in problem.times))
        bisect(in_time, slowest, fastest, goal.met, scores, _BISECTIONS)
    else:
        goal = within_resource(problem, losses, kind, limit)
        if goal.plan(np.ones(len(losses)), 1.0) is None:
            resources = problem.times if kind == "ms" else problem.sizes
            fronts = map(pareto, losses, resources)
            scores.of(tuple(int(front[0]) for front in fronts))  # the one that comes closest
    _refine(losses, goal, scores, seed)
    ranked = sorted((s for s in scores.all if math.isfinite(s.drop)), key=goal.rank)
    return Found(tuple(ranked), ranked[0], goal.met(ranked[0]))


def within_drop(problem: Problem, losses: Sequence[Numbers], limit: float) -> Goal:
    """The fastest plan that measures a drop of at most ``limit``."""
    return Goal(
        plan=lambda coefficients, share: _cheapest(
            problem.times, weighted(coefficients, losses), 0.0, limit * share
        ),
        shares=_SHARES,
        met=lambda s: s.drop <= limit,
        rank=lambda s: (
            (0, s.ms, s.drop, s.assignment) if s.drop <= limit else (1, s.drop, s.ms, s.assignment)
        ),
        worth=lambda assignment, best: problem.ms(assignment) < best.ms,
        near=lambda best: limit,
    )


def within_resource(
    problem: Problem, losses: Sequence[Numbers], kind: Literal["ms", "bytes"], limit: float
) -> Goal:
    """The plan of the least measured drop in at most ``limit`` milliseconds or bytes."""
    used, resources, fixed = {
        "ms": (problem.ms, problem.times, problem.fixed_ms),
        "bytes": (problem.bytes, problem.sizes, 0.0),
    }[kind]

    def rank(s: Scored) -> Any:
        over = used(s.assignment) if used(s.assignment) > limit else 0.0
        return (over, s.drop, s.ms, s.assignment)

    return Goal(
        plan=lambda coefficients, share: _cheapest(
            weighted(coefficients, losses), resources, fixed, limit * share
        ),
        shares=(1.0,),
        met=lambda s: used(s.assignment) <= limit,
        rank=rank,
        worth=lambda assignment, best: True,
        near=lambda best: best.drop,
    )


def _refine(losses: Sequence[Numbers], goal: Goal, scores: Scores, seed: int) -> None:
    """Measure what the knapsack proposes; every measurement corrects the next proposal."""
    random = np.random.default_rng(seed)
    while scores.left:
        best = min(scores.all, key=goal.rank)
        coefficients = fit(losses, scores.all, goal.near(best))
        for assignment in _proposals(goal, coefficients, random):
            if assignment and not scores.known(assignment) and goal.worth(assignment, best):
                scores.of(assignment)
                break
        else:
            break
    if scores.left:
        plan = partial(goal.plan, share=1.0)
        spdy(plan, scores, goal.rank, coefficients, worth=goal.worth, vectors=0, seed=seed)


def _proposals(
    goal: Goal, coefficients: Numbers, random: np.random.Generator
) -> Iterator[Assignment | None]:
    """Plans for the fitted coefficients, then for others about as likely."""
    for share in goal.shares:
        yield goal.plan(coefficients, share)
    for _ in range(_DRAWS):
        yield goal.plan(coefficients * random.lognormal(0, _DOUBT, len(coefficients)), 1.0)


def _cheapest(
    costs: Sequence[Numbers], resources: Sequence[Numbers], fixed: float, limit: float
) -> Assignment | None:
    """The knapsack beside something fixed, so that the exact sum of both keeps to the limit."""
    nothing, always = np.zeros(1), np.array([fixed])
    found = cheapest([*costs, nothing], [*resources, always], limit)
    return None if found is None else found[:-1]
