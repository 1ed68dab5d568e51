from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.search.baselines import (
    Family,
    erdos_renyi,
    ilp,
    integer_program,
    lagrangian,
    outliers,
    random_plans,
    uniform,
)
from sparsecc.search.bisection import bisect
from sparsecc.search.knapsack import cheapest
from sparsecc.search.problem import Assignment, Problem
from sparsecc.search.scored import Scores
from tests.sparsecc.search.problems import every, random_problem
from tests.sparsecc.search.test_allocation import Shape

SEEDS = st.integers(0, 10_000)


def densities(problem: Problem, assignment: Assignment) -> list[float]:
    return [float(s[c] / s[0]) for s, c in zip(problem.sizes, assignment, strict=True)]


@given(SEEDS, st.floats(0.2, 1.1))
def test_ilp_equals_brute_force_and_the_knapsack_comes_close(seed: int, share: float) -> None:
    problem = random_problem(seed)
    budget = share * (problem.ms(problem.dense) - problem.fixed_ms)
    times = [problem.ms(a) - problem.fixed_ms for a in every(problem.times)]
    fitting = [a for a, t in zip(every(problem.times), times, strict=True) if t <= budget]
    found = ilp(problem.losses, problem.times, budget)
    if not fitting:
        assert found is None
        return
    assert found is not None
    exact = min(map(problem.loss, fitting))
    assert problem.loss(found) == pytest.approx(exact, abs=1e-9)
    rounded = cheapest(problem.losses, problem.times, budget)
    assert rounded is not None
    assert problem.loss(rounded) >= exact - 1e-12


@given(SEEDS, st.floats(0, 1))
def test_lagrangian_plans_are_optimal_for_their_own_time(seed: int, where: float) -> None:
    problem = random_problem(seed)
    family = lagrangian(problem)
    found = family.plan(family.harmless + where * (family.harmful - family.harmless))
    assert found is not None
    for other in every(problem.times):
        if problem.ms(other) < problem.ms(found) - 1e-9:
            assert problem.loss(other) > problem.loss(found) - 1e-9


@given(SEEDS)
def test_families_run_from_harmless_to_harmful(seed: int) -> None:
    problem = random_problem(seed)
    names = problem.names
    shapes = [Shape(name, 64, 64 * (i + 1)) for i, name in enumerate(names)]
    fastest = min(problem.ms(a) for a in every(problem.times))
    for family in (uniform(problem), erdos_renyi(problem, shapes), lagrangian(problem)):
        assert family.plan(family.harmless) == problem.dense
        last = family.plan(family.harmful)
        assert last is not None
        assert problem.ms(last) <= problem.ms(problem.dense)
    hull = lagrangian(problem)
    last = hull.plan(hull.harmful)
    assert last is not None
    assert problem.ms(last) == pytest.approx(fastest)
    exact = integer_program(problem)
    assert exact.plan(exact.harmful * 0.99) is None


def test_density_families_take_the_nearest_choice() -> None:
    problem = random_problem(1, layers=3, choices=5)  # densities 1, .8, .6, .4, .2
    assert uniform(problem).plan(0.62) == (2, 2, 2)
    shares = [0.0, 0.5, 1.0]
    assert outliers(problem, shares).plan(0.52) == (3, 2, 2)
    wide = [Shape("a", 64, 64), Shape("b", 64, 64), Shape("c", 2048, 2048)]
    found = erdos_renyi(problem, wide).plan(0.2)
    assert found is not None
    a, b, c = densities(problem, found)
    assert a == b > c


def test_random_plans_are_measured_only_if_they_could_win() -> None:
    problem = random_problem(2)
    asked: list[Assignment] = []

    def score(assignment: Assignment) -> float:
        asked.append(assignment)
        return problem.loss(assignment)

    scores = Scores(problem, score, 30)
    random_plans(problem, scores, 0.3, seed=5)
    assert asked
    best = problem.ms(problem.dense)
    for assignment in asked:
        assert problem.ms(assignment) < best
        if problem.loss(assignment) <= 0.3:
            best = problem.ms(assignment)
    again = Scores(problem, problem.loss, 30)
    random_plans(problem, again, 0.3, seed=5)
    assert again.all == scores.all


def steps(count: int) -> Family:
    """Plan i of one layer for parameters from i to i + 1; none from ``count`` on."""
    return Family(lambda x: (int(x),) if x < count else None, 0.0, count + 2.0)


@given(st.integers(2, 40), st.data())
def test_bisection_ends_at_the_last_harmless_plan(count: int, data: st.DataObject) -> None:
    last = data.draw(st.integers(0, count - 1))
    ladder = np.arange(count, dtype=float)
    problem = Problem(["a"], [ladder[::-1]], [ladder], [ladder])
    scores = Scores(problem, lambda a: float(a[0]), 100)
    family = steps(count)
    bisect(family.plan, family.harmless, family.harmful, lambda s: s.drop <= last, scores, 100)
    assert max(s.drop for s in scores.all if s.drop <= last) == last
    assert len(scores.all) <= 2 + math.log2(count + 2)


def test_bisection_measures_no_more_than_it_may() -> None:
    ladder = np.arange(64, dtype=float)
    problem = Problem(["a"], [ladder[::-1]], [ladder], [ladder])
    scores = Scores(problem, problem.loss, 100)
    family = steps(64)
    bisect(family.plan, family.harmless, family.harmful, lambda s: s.drop <= 20, scores, 3)
    assert scores.left == 97
    few = Scores(problem, problem.loss, 2)
    bisect(family.plan, family.harmless, family.harmful, lambda s: s.drop <= 20, few, 3)
    assert few.left == 0
