"""The distance that a drop is to be expected at: right where the drop follows it, sane else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.search.allowance import MOST_NEARER, MOST_STEP, allowance
from sparsecc.search.scored import Scored

DISTANCES = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=8, unique=True)


def scored(distance: float, drop: float) -> Scored:
    return Scored((1,), 1.0, drop, distance)


def test_nothing_measured_is_the_limit_itself() -> None:
    assert allowance([], 0.01) == 0.01
    assert allowance([scored(0.0, 0.0), scored(math.inf, math.inf)], 0.01) == 0.01


@given(st.floats(0.1, 10), st.floats(0.05, 0.95), st.floats(0.01, 0.5), st.floats(1.5, 3))
def test_between_two_plans_a_drop_in_proportion_is_met(
    slope: float, share: float, low: float, factor: float
) -> None:
    limit = slope * (low + share * (factor - 1) * low)
    plans = [scored(d, slope * d) for d in (low, factor * low)]
    wanted = np.clip(share, 0.1, 0.9) * (factor - 1) * low + low
    assert allowance(plans, limit) == pytest.approx(wanted)


@given(DISTANCES, st.integers(0, 1000))
def test_it_stays_near_what_was_measured(distances: list[float], seed: int) -> None:
    drops = np.random.default_rng(seed).normal(0.01, 0.02, len(distances))
    plans = [scored(d, float(drop)) for d, drop in zip(distances, drops, strict=True)]
    found = allowance(plans, 0.01)
    assert min(distances) / MOST_NEARER <= found <= MOST_STEP * max(distances)


def test_beyond_the_last_good_plan_it_goes_as_far_as_the_drop_says() -> None:
    assert allowance([scored(0.02, 0.005)], 0.01) == pytest.approx(0.04)
    assert allowance([scored(0.02, -0.005)], 0.01) == pytest.approx(MOST_STEP * 0.02)
    assert allowance([scored(0.02, 0.02)], 0.01) == pytest.approx(0.01)
    assert allowance([scored(0.3, 0.2)], 0.01) == pytest.approx(0.015)
    assert allowance([scored(0.3, math.inf)], 0.01) == 0.01
    assert allowance([scored(0.3, 0.9)], 0.001) == pytest.approx(0.3 / MOST_NEARER)


def test_one_lucky_plan_among_bad_ones_is_not_believed() -> None:
    bad = [scored(d, 0.03) for d in (0.02, 0.03, 0.05)]
    assert allowance([scored(0.01, 0.0), *bad, scored(0.04, 0.0)], 0.01) < 0.02
