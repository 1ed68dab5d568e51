"""The search for a plan: the fastest within a loss, or the least loss within a time or a size.

Measuring a plan end to end takes seconds, so few are. The knapsack proposes plans by the losses of
single layers; what a proposal then measures corrects the coefficients of the layers (see
:mod:`sparsecc.search.coefficients`) and the distance from the dense model at which a plan loses as
much as it may (:mod:`sparsecc.search.allowance`). The knapsack proposes again for these or, when
that is nothing new, for random coefficients around them. In a thorough search SPDY's hill climb,
which strays further, uses what measurements are left when that too is nothing new.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from sparsecc.errors import PlanError
from sparsecc.progress import Progress, silent
from sparsecc.search.allowance import allowance
from sparsecc.search.coefficients import base_losses, fit, weighted
from sparsecc.search.knapsack import cheapest, pareto
from sparsecc.search.problem import Assignment, Numbers, Problem
from sparsecc.search.scored import Score, Scored, Scores
from sparsecc.search.spdy import spdy

Kind = Literal["drop", "ms", "bytes"]
"""What is limited: the drop of quality, the time of the model, the bytes of its weights."""
Mode = Literal["fast", "thorough"]
MODES: tuple[Mode, ...] = ("fast", "thorough")

SCORES: dict[Mode, int] = {"fast": 6, "thorough": 40}
"""Plans measured end to end, at most."""
_WORTH = 0.98
"""A plan is measured only if it takes at most this share of the best one's time."""
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


Planner = Callable[[Numbers, float], Assignment | None]
"""Coefficients ``[layers]`` and what is allowed → the knapsack's plan, if there is one."""


@dataclasses.dataclass(frozen=True)
class Goal:
    """What makes a plan good, and how the knapsack makes one.

    Attributes:
        plan: Makes one.
        allowed: What plans are made for, given what was measured.
        shares: Of that, that plans are made for, in this order.
        met: Whether a measured plan keeps to the limit.
        rank: Sort key of a measured plan; the least is the best.
        worth: Whether a plan could beat the best so far, by what is known without measuring.
        near: The distance at which coefficients should be right, given what is allowed and the
            best plan so far.
    """

    plan: Planner
    allowed: Callable[[Sequence[Scored]], float]
    shares: tuple[float, ...]
    met: Callable[[Scored], bool]
    rank: Callable[[Scored], Any]
    worth: Callable[[Assignment, Scored], bool]
    near: Callable[[float, Scored], float]


def search(
    problem: Problem,
    score: Score,
    *,
    kind: Kind,
    limit: float,
    mode: Mode = "fast",
    seed: int = 0,
    first: Sequence[Assignment] = (),
    progress: Progress = silent,
) -> Found:
    """Look for the best plan.

    Args:
        problem: Layers, their choices, and what is known of them.
        score: What a plan comes to, measured end to end against the dense model (which is not
            measured: its drop is 0). It need not be exact or monotone.
        kind: What is limited. ``drop``: the fastest plan that measures at most so much.
            ``ms`` or ``bytes``: the plan of the least drop that takes at most so much.
        limit: A share of the dense model's quality, milliseconds of the whole model, or bytes of
            the weights of the layers.
        mode: How many plans are measured besides the first: at most 6, or those and 34 more.
        seed: Of random coefficients; the same inputs give the same result.
        first: Plans that are measured before any other.
        progress: Told after each measurement.

    Returns:
        The plans and the chosen one. Where no plan keeps to the limit it is the one that comes
        closest to it, not met.

    Raises:
        PlanError: The limit is negative or not a number.
    """
    if not limit >= 0:
        raise PlanError(f"the limit of {kind} is {limit}", fix="give a number of at least 0")
    scores = Scores(problem, score, SCORES[mode] + len(first), progress)
    losses = base_losses(problem)
    if kind == "drop":
        goal = within_drop(problem, losses, limit)
    else:
        goal = within_resource(problem, losses, kind, limit)
        if goal.plan(np.ones(len(losses)), limit) is None:
            resources = problem.times if kind == "ms" else problem.sizes
            fronts = map(pareto, losses, resources)
            scores.of(tuple(int(front[0]) for front in fronts))  # the one that comes closest
    for assignment in [*first, *_unmeasured(problem, losses)][: scores.left]:
        scores.of(assignment)
    coefficients = _refine(losses, goal, scores, seed)
    if mode == "thorough" and scores.left:
        plan = partial(_planned, goal, scores)
        spdy(plan, scores, goal.rank, coefficients, worth=goal.worth, vectors=0, seed=seed)
    ranked = sorted((s for s in scores.all if math.isfinite(s.drop)), key=goal.rank)
    return Found(tuple(ranked), ranked[0], goal.met(ranked[0]))


def _unmeasured(problem: Problem, losses: Sequence[Numbers]) -> list[Assignment]:
    """Where losses have stand-ins, a plan of middling time, which tells their scale."""
    if not any(np.isnan(given).any() for given in problem.losses):
        return []
    slowest = problem.ms(problem.dense)
    fastest = problem.ms(tuple(int(t.argmin()) for t in problem.times))
    middle = (slowest + fastest) / 2
    plan = _cheapest(losses, problem.times, problem.fixed_ms, middle)
    return [plan] if plan is not None and any(plan) else []


def within_drop(problem: Problem, losses: Sequence[Numbers], limit: float) -> Goal:
    """The fastest plan that measures a drop of at most ``limit``."""
    return Goal(
        plan=lambda coefficients, allowed: _cheapest(
            problem.times, weighted(coefficients, losses), 0.0, allowed
        ),
        allowed=lambda scored: allowance(scored, limit),
        shares=_SHARES,
        met=lambda s: s.drop <= limit,
        rank=lambda s: (
            (0, s.ms, s.drop, s.assignment) if s.drop <= limit else (1, s.drop, s.ms, s.assignment)
        ),
        worth=lambda assignment, best: problem.ms(assignment) <= _WORTH * best.ms,
        near=lambda allowed, best: allowed,
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
        plan=lambda coefficients, allowed: _cheapest(
            weighted(coefficients, losses), resources, fixed, allowed
        ),
        allowed=lambda scored: limit,
        shares=(1.0,),
        met=lambda s: used(s.assignment) <= limit,
        rank=rank,
        worth=lambda assignment, best: True,
        near=lambda allowed, best: best.distance,
    )


def _refine(losses: Sequence[Numbers], goal: Goal, scores: Scores, seed: int) -> Numbers:
    """Measure what the knapsack proposes; every measurement corrects the next proposal.

    Returns:
        The coefficients of the layers in the end.
    """
    random = np.random.default_rng(seed)
    while True:
        best = min(scores.all, key=goal.rank)
        allowed = goal.allowed(scores.all)
        coefficients = fit(losses, scores.all, goal.near(allowed, best))
        if not scores.left:
            return coefficients
        for assignment in _proposals(goal, coefficients, allowed, random):
            if assignment and not scores.known(assignment) and goal.worth(assignment, best):
                scores.of(assignment)
                break
        else:
            return coefficients


def _planned(goal: Goal, scores: Scores, coefficients: Numbers) -> Assignment | None:
    return goal.plan(coefficients, goal.allowed(scores.all))


def _proposals(
    goal: Goal, coefficients: Numbers, allowed: float, random: np.random.Generator
) -> Iterator[Assignment | None]:
    """Plans for the fitted coefficients, then for others about as likely."""
    for share in goal.shares:
        yield goal.plan(coefficients, share * allowed)
    for _ in range(_DRAWS):
        yield goal.plan(coefficients * random.lognormal(0, _DOUBT, len(coefficients)), allowed)


def _cheapest(
    costs: Sequence[Numbers], resources: Sequence[Numbers], fixed: float, limit: float
) -> Assignment | None:
    """The knapsack beside something fixed, so that the exact sum of both keeps to the limit."""
    nothing, always = np.zeros(1), np.array([fixed])
    found = cheapest([*costs, nothing], [*resources, always], limit)
    return None if found is None else found[:-1]
