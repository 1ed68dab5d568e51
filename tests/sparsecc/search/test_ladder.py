"""The next plan to carry out: down where too much was lost, up where there is room, never twice."""

from __future__ import annotations

import numpy as np
import pytest

from sparsecc.search.ladder import ROOM, Ladder
from sparsecc.search.problem import Assignment, Problem
from sparsecc.search.scored import Scored

LAYERS, CHOICES = 12, 6


def problem(seed: int) -> Problem:
    """Choices that are the faster the more they lose."""
    rng = np.random.default_rng(seed)
    times = [np.sort(rng.uniform(0.1, 1, CHOICES))[::-1] for _ in range(LAYERS)]
    losses = [np.concatenate([[0], np.cumsum(rng.uniform(0, 0.01, CHOICES - 1))]) for _ in times]
    return Problem([f"fc{i}" for i in range(LAYERS)], times, losses, losses)


def middle(of: Problem) -> Assignment:
    return (CHOICES // 2,) * len(of.names)


def ladder(of: Problem, limit: float) -> Ladder:
    start = middle(of)
    return Ladder(of, [Scored(start, of.ms(start), of.loss(start))], limit)


@pytest.mark.parametrize("seed", range(5))
def test_down_where_too_much_was_lost_and_up_where_there_is_room(seed: int) -> None:
    made = problem(seed)
    start = middle(made)
    less = ladder(made, 0.1).next(start, 2.0)
    more = ladder(made, 0.1).next(start, 0.4)
    assert less is not None
    assert more is not None
    assert made.loss(less) < made.loss(start) < made.loss(more)
    assert made.ms(more) < made.ms(less)


@pytest.mark.parametrize("seed", range(5))
def test_it_closes_in_on_the_limit(seed: int) -> None:
    """With drops that are exactly the losses, the last good plan uses the budget."""
    made = problem(seed)
    limit = 0.6 * made.loss(middle(made))
    steps = ladder(made, limit)
    plan: Assignment | None = middle(made)
    tried, good = [], []
    while plan is not None and len(tried) < 12:
        tried.append(plan)
        used = made.loss(plan) / limit
        if used <= 1:
            good.append(used)
        plan = steps.next(plan, used)
    assert len(set(tried)) == len(tried)
    assert max(good) > ROOM


def test_a_plan_that_uses_its_budget_is_the_last() -> None:
    made = problem(0)
    assert ladder(made, 0.1).next(middle(made), 0.9) is None


def test_a_lucky_plan_above_an_unlucky_one_ends_the_search() -> None:
    made = problem(0)
    steps = ladder(made, 0.1)
    lower = steps.next(middle(made), 2.0)
    assert lower is not None
    assert steps.next(middle(made), 0.5) is None
