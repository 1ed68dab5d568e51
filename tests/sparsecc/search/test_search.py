from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.errors import PlanError
from sparsecc.search.problem import Assignment, Problem
from sparsecc.search.search import SCORES, Found, Kind, Mode, search
from tests.sparsecc.search.problems import every, random_problem

SEEDS = st.integers(0, 10_000)
KINDS: list[Kind] = ["drop", "ms", "bytes"]


class Truth:
    """Drops of plans: what layers lose, each with a weight of its own, and how they meet."""

    def __init__(self, problem: Problem, seed: int, noise: float = 0.0) -> None:
        random = np.random.default_rng(seed)
        count = len(problem.names)
        self.weights = random.lognormal(0, 0.4, count)
        self.pairs = np.triu(random.normal(0, 0.2, (count, count)), 1)
        self.noise = noise
        self.problem = problem
        self.asked: list[Assignment] = []

    def drop(self, assignment: Assignment) -> float:
        losses = zip(self.problem.losses, assignment, strict=True)
        lost = self.weights * [float(loss[choice]) for loss, choice in losses]
        roots = np.sqrt(lost)
        jitter = np.random.default_rng(assignment).normal(0, self.noise) if any(assignment) else 0
        return float(lost.sum() + roots @ self.pairs @ roots + jitter)

    def __call__(self, assignment: Assignment) -> float:
        self.asked.append(assignment)
        return self.drop(assignment)


def used(problem: Problem, kind: Kind, assignment: Assignment) -> float:
    return problem.ms(assignment) if kind == "ms" else problem.bytes(assignment)


def limit_of(problem: Problem, truth: Truth, kind: Kind, share: float) -> float:
    values = [
        truth.drop(a) if kind == "drop" else used(problem, kind, a) for a in every(problem.times)
    ]
    return max(float(np.quantile(values, share)), 0.0)


@given(SEEDS, st.sampled_from(KINDS), st.floats(0, 1), st.sampled_from([0.0, 0.05]))
def test_keeps_to_the_limit_measures_once_and_says_what_it_measured(
    seed: int, kind: Kind, share: float, noise: float
) -> None:
    problem = random_problem(seed)
    truth = Truth(problem, seed, noise)
    limit = limit_of(problem, truth, kind, share)
    found = search(problem, truth, kind=kind, limit=limit)
    assert found.met
    value = found.chosen.drop if kind == "drop" else used(problem, kind, found.chosen.assignment)
    assert value <= limit
    assert len(truth.asked) == len(set(truth.asked)) <= SCORES["fast"]
    assert {s.assignment for s in found.scored} == {problem.dense, *truth.asked}
    assert problem.dense not in truth.asked
    assert found.chosen is found.scored[0]
    for plan in found.scored[1:]:
        assert plan.ms == problem.ms(plan.assignment)
        assert plan.drop == truth.drop(plan.assignment)
        if kind == "drop":
            assert plan.drop > limit or plan.ms >= found.chosen.ms
        elif used(problem, kind, plan.assignment) <= limit:
            assert plan.drop >= found.chosen.drop


@pytest.mark.parametrize("mode", ["fast", "thorough"])
def test_comes_close_to_exhaustive_search(mode: Mode) -> None:
    regrets = []
    for seed in range(20):
        problem = random_problem(seed, layers=5)
        truth = Truth(problem, seed)
        limit = limit_of(problem, truth, "drop", 0.3)
        plans = every(problem.times)
        best = min(problem.ms(a) for a in plans if truth.drop(a) <= limit)
        found = search(problem, truth, kind="drop", limit=limit, mode=mode)
        regrets.append(found.chosen.ms / best - 1)
    assert min(regrets) >= 0
    assert np.median(regrets) <= 0.03
    assert np.quantile(regrets, 0.95) <= 0.1


@pytest.mark.parametrize("kind", ["ms", "bytes"])
def test_within_time_or_size_it_comes_close_to_the_least_drop(kind: Kind) -> None:
    excess = []
    for seed in range(20):
        problem = random_problem(seed, layers=5)
        truth = Truth(problem, seed)
        limit = limit_of(problem, truth, kind, 0.4)
        fitting = [truth.drop(a) for a in every(problem.times) if used(problem, kind, a) <= limit]
        found = search(problem, truth, kind=kind, limit=limit)
        excess.append((found.chosen.drop - min(fitting)) / (max(fitting) - min(fitting)))
    assert min(excess) >= 0
    assert np.median(excess) <= 0.03
    assert np.quantile(excess, 0.95) <= 0.1


@given(SEEDS, st.sampled_from(KINDS))
def test_same_seed_same_search(seed: int, kind: Kind) -> None:
    problem = random_problem(seed, layers=5)

    def run() -> tuple[Found, list[Assignment]]:
        truth = Truth(problem, seed)
        limit = limit_of(problem, truth, kind, 0.4)
        return search(problem, truth, kind=kind, limit=limit, mode="thorough", seed=3), truth.asked

    assert run() == run()


def test_thorough_goes_on_where_fast_stopped() -> None:
    problem = random_problem(1, layers=6, choices=5)
    fast, thorough = Truth(problem, 1), Truth(problem, 1)
    search(problem, fast, kind="drop", limit=0.1)
    search(problem, thorough, kind="drop", limit=0.1, mode="thorough")
    assert thorough.asked[: len(fast.asked)] == fast.asked
    assert len(fast.asked) < len(thorough.asked) <= SCORES["thorough"]


def test_no_loss_allowed_still_takes_what_loses_nothing() -> None:
    free, costly = [2.0, 1.0], [2.0, 0.5]
    problem = Problem(["a", "b"], [free, costly], [[0, 0], [0, 0.1]], [[2, 1], [2, 1]])  # type: ignore[list-item]
    found = search(problem, problem.loss, kind="drop", limit=0.0)
    assert found.chosen.assignment == (1, 0)


def test_where_nothing_gains_the_dense_plan_is_chosen() -> None:
    problem = Problem(["a"], [[1.0, 2.0]], [[0, 0.1]], [[1, 2]])  # type: ignore[list-item]
    for kind, limit in (("drop", 0.5), ("ms", 1.5), ("bytes", 5.0)):
        found = search(problem, problem.loss, kind=kind, limit=limit)  # type: ignore[arg-type]
        assert found.met
        assert found.chosen.assignment == problem.dense


@pytest.mark.parametrize("kind", ["ms", "bytes"])
def test_a_limit_that_nothing_meets_gives_what_comes_closest(kind: Kind) -> None:
    problem = random_problem(3)
    found = search(problem, problem.loss, kind=kind, limit=0.01)
    assert not found.met
    smallest = min(used(problem, kind, a) for a in every(problem.times))
    assert used(problem, kind, found.chosen.assignment) == smallest


@pytest.mark.parametrize("kind", KINDS)
def test_plans_that_fail_or_gain_do_no_harm(kind: Kind) -> None:
    problem = random_problem(4)
    limit = 0.05 if kind == "drop" else used(problem, kind, problem.dense)
    broken = search(problem, lambda a: math.nan, kind=kind, limit=limit)
    assert broken.scored == (broken.chosen,)
    assert broken.chosen.assignment == problem.dense
    tighter = limit if kind == "drop" else 0.7 * limit
    gains = search(problem, lambda a: -0.01 * sum(a), kind=kind, limit=tighter)
    assert gains.met
    assert gains.chosen.drop < 0


def test_unmeasured_losses_are_stood_in_for() -> None:
    problem = random_problem(5)
    blank = Problem(
        problem.names,
        problem.times,
        [np.full_like(loss, np.nan) for loss in problem.losses],
        problem.sizes,
    )
    truth = Truth(problem, 5)
    limit = limit_of(problem, truth, "drop", 0.5)
    found = search(blank, truth, kind="drop", limit=limit)
    assert found.met
    assert found.chosen.ms < blank.ms(blank.dense)


def test_a_model_without_layers_is_its_own_plan() -> None:
    nothing = Problem([], [], [], [], fixed_ms=1.0)
    for kind in KINDS:
        found = search(nothing, lambda a: 1 / 0, kind=kind, limit=2.0, mode="thorough")
        assert found.met
        assert found.chosen.ms == 1.0


@pytest.mark.parametrize("limit", [-0.1, math.nan])
def test_an_impossible_limit_is_refused(limit: float) -> None:
    with pytest.raises(PlanError, match="limit of drop"):
        search(random_problem(0), lambda a: 0.0, kind="drop", limit=limit)


def test_progress_tells_of_every_measurement() -> None:
    told: list[float] = []
    problem = random_problem(6)
    truth = Truth(problem, 6)
    search(problem, truth, kind="drop", limit=0.1, progress=lambda step, share: told.append(share))
    assert told == [pytest.approx((i + 1) / SCORES["fast"]) for i in range(len(truth.asked))]
