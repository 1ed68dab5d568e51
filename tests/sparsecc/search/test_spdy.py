from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.search.coefficients import base_losses, fit
from sparsecc.search.knapsack import cheapest
from sparsecc.search.problem import Assignment, Numbers, Problem
from sparsecc.search.scored import Scored, Scores
from sparsecc.search.spdy import spdy
from tests.sparsecc.search.problems import every, random_problem

SEEDS = st.integers(0, 10_000)


def within(
    problem: Problem, budget: float, drawn: list[Numbers] | None = None
) -> Callable[[Numbers], Assignment | None]:
    def plan(coefficients: Numbers) -> Assignment | None:
        if drawn is not None:
            drawn.append(coefficients)
        costs = [c * loss for c, loss in zip(coefficients, base_losses(problem), strict=True)]
        return cheapest(costs, problem.times, budget, 500)

    return plan


def by_drop(plan: Scored) -> tuple[float, Assignment]:
    return plan.drop, plan.assignment


@given(SEEDS, st.integers(0, 30))
def test_spdy_returns_all_it_measured_best_first_within_its_bounds(seed: int, most: int) -> None:
    problem = random_problem(seed)
    weights = np.random.default_rng(seed).lognormal(0, 1, len(problem.names))
    budget = 0.6 * (problem.ms(problem.dense) - problem.fixed_ms)

    def run() -> tuple[list[Scored], list[Assignment]]:
        asked: list[Assignment] = []

        def score(assignment: Assignment) -> float:
            asked.append(assignment)
            losses = [float(v[c]) for v, c in zip(problem.losses, assignment, strict=True)]
            return float(weights @ losses) + 1.0

        scores = Scores(problem, score, most)
        plan = within(problem, budget)
        return spdy(plan, scores, by_drop, np.ones(len(weights)), vectors=20, seed=seed), asked

    found, asked = run()
    assert len(asked) == len(set(asked)) <= most
    assert {s.assignment for s in found} == {problem.dense, *asked}
    assert found == sorted(found, key=by_drop)
    assert all(problem.ms(a) - problem.fixed_ms <= budget for a in asked)
    assert run() == (found, asked)


def test_spdy_finds_what_plain_losses_hide() -> None:
    problem = random_problem(3, layers=6, choices=4)
    weights = np.array([9.0, 0.1, 3.0, 1.0, 0.3, 5.0])
    budget = 0.6 * (problem.ms(problem.dense) - problem.fixed_ms)

    def drop(assignment: Assignment) -> float:
        return math.fsum(
            w * float(v[c]) for w, v, c in zip(weights, problem.losses, assignment, strict=True)
        )

    fitting = [a for a in every(problem.times) if problem.ms(a) - problem.fixed_ms <= budget]
    best = min(map(drop, fitting))
    scores = Scores(problem, drop, 300)
    found = spdy(within(problem, budget), scores, lambda s: (not s.drop, s.drop), np.ones(6))
    plain = cheapest(problem.losses, problem.times, budget)
    assert plain is not None
    assert drop(plain) > 1.2 * best  # the plain losses are far off
    assert found[0].drop <= 1.02 * best


def test_the_hill_climb_changes_one_layer_in_ten_then_one() -> None:
    problem = random_problem(4, layers=25, choices=3)
    drawn: list[Numbers] = []
    scores = Scores(problem, lambda a: 1.0, 10_000)
    spdy(within(problem, 10.0, drawn), scores, lambda s: s.drop, np.ones(25), vectors=0)
    changed = [int((c != drawn[0]).sum()) for c in drawn[1:]]
    assert changed == sorted(changed, reverse=True)
    assert set(changed) == {3, 2, 1}
    assert all((c >= 0).all() and (c <= 2).all() for c in drawn)


def test_what_is_not_worth_measuring_is_not_measured() -> None:
    problem = random_problem(5)
    scores = Scores(problem, lambda a: 1 / 0, 10)
    found = spdy(
        within(problem, 2.0), scores, by_drop, np.ones(4), worth=lambda a, best: False, vectors=5
    )
    assert [s.assignment for s in found] == [problem.dense]


def test_stand_in_losses_follow_the_bytes() -> None:
    nan = [math.nan] * 4
    problem = Problem(["a", "b"], [[4, 3, 2, 1], [1.0]], [nan, [math.nan]], [[90, 10, 50, 70], [1]])  # type: ignore[list-item]
    first, second = base_losses(problem)
    assert first == pytest.approx([0, 1, 4 / 9, 1 / 9])
    assert second == [0]


def scored(assignment: Assignment, drop: float) -> Scored:
    return Scored(assignment, 1.0, drop, drop)


def plans(problem: Problem, weights: Numbers, seed: int, count: int = 40) -> list[Scored]:
    random = np.random.default_rng(seed)
    chosen = {tuple(int(random.integers(len(t))) for t in problem.times) for _ in range(count)}
    return [
        scored(a, float(weights @ [float(v[c]) for v, c in zip(problem.losses, a, strict=True)]))
        for a in sorted(chosen)
    ]


@given(SEEDS, st.floats(1e-3, 1e3))
def test_fit_recovers_coefficients_from_many_plans(seed: int, scale: float) -> None:
    problem = random_problem(seed)
    weights = scale * np.random.default_rng(seed).uniform(0.7, 1.4, 4)
    measured = plans(problem, weights, seed)
    near = float(np.median([p.drop for p in measured]))
    found = fit(problem.losses, measured, near)
    for plan in measured:
        losses = [float(v[c]) for v, c in zip(problem.losses, plan.assignment, strict=True)]
        if plan.drop > 0.5 * near:
            assert float(found @ losses) == pytest.approx(plan.drop, rel=0.1)


def test_fit_heeds_plans_near_the_limit_most() -> None:
    problem = Problem(["a"], [[3, 2, 1]], [[0, 0.1, 0.4]], [[3, 2, 1]])  # type: ignore[list-item]
    saturated = [scored((1,), 0.05), scored((2,), 0.9)]
    low, high = (fit(problem.losses, saturated, near)[0] for near in (0.05, 0.9))
    assert 0.5 <= low < 0.7  # .05 / .1
    assert 2.0 < high <= 2.25  # .9 / .4


def test_fit_without_anything_to_learn_leaves_losses_as_they_are() -> None:
    problem = random_problem(6)
    dense = scored(problem.dense, 0.0)
    failed = scored((1, 1, 1, 1), math.inf)
    gained = scored((1, 1, 1, 1), -0.1)
    for measured in ([], [dense], [dense, failed], [dense, gained]):
        assert fit(problem.losses, measured, 0.01).tolist() == [1, 1, 1, 1]


@given(SEEDS, st.floats(0, 0.1))
def test_fit_stays_positive_whatever_was_measured(seed: int, near: float) -> None:
    problem = random_problem(seed)
    random = np.random.default_rng(seed)
    measured = plans(problem, np.ones(4), seed, 6)
    noisy = [scored(p.assignment, float(random.normal(0, 0.1))) for p in measured]
    found = fit(problem.losses, noisy, near)
    assert np.isfinite(found).all()
    assert (found > 0).all()


def test_no_score_is_measured_beyond_the_last() -> None:
    problem = random_problem(7)
    scores = Scores(problem, problem.loss, 1)
    scores.of((1, 0, 0, 0))
    assert scores.of((1, 0, 0, 0)).drop == problem.loss((1, 0, 0, 0))
    with pytest.raises(ValueError, match="used up"):
        scores.of((2, 0, 0, 0))
