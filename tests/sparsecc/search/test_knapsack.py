from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.search.knapsack import cheapest, pareto
from sparsecc.search.problem import Assignment, Numbers
from tests.sparsecc.search.problems import every

Layers = list[list[tuple[float, float]]]
"""Cost and resource of every choice of every layer."""


def tables(amounts: st.SearchStrategy[float]) -> st.SearchStrategy[Layers]:
    choice = st.tuples(st.floats(0, 10), amounts)
    return st.lists(st.lists(choice, min_size=1, max_size=5), min_size=1, max_size=5)


def split(layers: Layers) -> tuple[list[Numbers], list[Numbers]]:
    arrays = [np.array(layer, np.float64) for layer in layers]
    return [a[:, 0] for a in arrays], [a[:, 1] for a in arrays]


def total(values: list[Numbers], assignment: Assignment) -> float:
    return math.fsum(float(v[c]) for v, c in zip(values, assignment, strict=True))


def least_cost(costs: list[Numbers], resources: list[Numbers], budget: float) -> float:
    """By trying everything; infinity when nothing fits."""
    fitting = (a for a in every(costs) if total(resources, a) <= budget)
    return min((total(costs, a) for a in fitting), default=math.inf)


@given(tables(st.integers(0, 20).map(float)), st.integers(1, 40), st.sampled_from([1.0, 0.1, 3e7]))
def test_equals_brute_force_where_resources_are_multiples_of_a_bucket(
    layers: Layers, slack: int, bucket: float
) -> None:
    costs, units = split(layers)
    resources = [unit * bucket for unit in units]
    budget = (sum(unit.min() for unit in units) + slack) * bucket
    found = cheapest(costs, resources, budget, buckets=slack)
    assert found is not None
    exact = least_cost(costs, units, sum(unit.min() for unit in units) + slack)
    assert total(costs, found) <= exact + 1e-9
    assert total(resources, found) <= budget


@given(tables(st.floats(0, 10)), st.floats(0, 40), st.integers(7, 200))
def test_never_over_the_budget_and_nothing_only_if_nothing_fits(
    layers: Layers, budget: float, buckets: int
) -> None:
    costs, resources = split(layers)
    found = cheapest(costs, resources, budget, buckets)
    if found is None:
        assert least_cost(costs, resources, budget) == math.inf
        return
    assert total(resources, found) <= budget
    least = math.fsum(float(r.min()) for r in resources)
    smaller = least + (budget - least) * (1 - (len(layers) + 1) / buckets)
    assert total(costs, found) <= least_cost(costs, resources, smaller * (1 - 1e-12)) + 1e-9


@given(tables(st.floats(0, 10)), st.floats(0, 20), st.floats(1.01, 3))
def test_a_larger_budget_costs_no_more(layers: Layers, slack: float, factor: float) -> None:
    costs, resources = split(layers)
    least = math.fsum(float(r.min()) for r in resources) + 1e-6
    small = cheapest(costs, resources, least + slack)
    large = cheapest(costs, resources, least + slack * factor + 1e-6)
    assert small is not None
    assert large is not None
    assert total(costs, large) <= total(costs, small) + 1e-9


@given(tables(st.floats(0, 10)), st.floats(0, 40))
def test_dual_use_finds_the_fastest_within_a_loss(layers: Layers, limit: float) -> None:
    losses, times = split(layers)
    found = cheapest(times, losses, limit)
    fastest = least_cost(times, losses, limit)
    if found is None:
        assert fastest == math.inf
    else:
        assert total(losses, found) <= limit
        assert total(times, found) >= fastest - 1e-12


@given(tables(st.integers(0, 3).map(float)))
def test_pareto_keeps_what_nothing_beats(layers: Layers) -> None:
    for costs, resources in zip(*split(layers), strict=True):
        front = pareto(costs, resources)
        assert all(np.diff(resources[front]) > 0)
        assert all(np.diff(costs[front]) < 0)
        for choice in range(len(costs)):
            as_good = (costs[front] <= costs[choice]) & (resources[front] <= resources[choice])
            assert as_good.any()
            if choice not in front:
                best = front[as_good][0]
                same = costs[best] == costs[choice] and resources[best] == resources[choice]
                assert not same or best < choice


def test_a_slack_that_floats_hardly_resolve() -> None:
    resources = [np.array([1.0, 2.0]), np.array([1e-17, 3e-17]), np.array([0.1, 0.7])]
    costs = [np.array([1.0, 0.0])] * 3
    for budget in (1.1, np.nextafter(1.1, 2), np.nextafter(1.1, 0)):
        found = cheapest(costs, resources, float(budget))
        fits = total(resources, (0, 0, 0)) <= budget
        assert (found is not None) == fits
        if found is not None:
            assert total(resources, found) <= budget


def test_what_snapping_gave_away_is_taken_back() -> None:
    over = 1 + 2e-12  # less than what is taken for rounding
    resources = [np.array([0.0, over])] * 10
    costs = [np.array([1.0, 0.0])] * 10
    found = cheapest(costs, resources, 5.0, buckets=5)
    assert found is not None
    assert sum(found) == 4


@pytest.mark.parametrize("budget", [math.inf, 9.0])
def test_room_for_everything_takes_the_least_cost(budget: float) -> None:
    costs, resources = [np.array([3.0, 1.0, 2.0])], [np.array([1.0, 9.0, 5.0])]
    assert cheapest(costs, resources, budget) == (1,)
