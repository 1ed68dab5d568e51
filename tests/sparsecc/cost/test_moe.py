"""What a mixture of experts is expected to take: the formulas against random routers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc import targets
from sparsecc.cost.moe import Routing, mixture_ms

TARGET = targets.TARGETS["x86-64-v4"]
RUNS = 300


def drawn(routing: Routing, chances: np.ndarray | None = None) -> np.ndarray:
    """Tokens of each expert in many runs, ``[runs, experts]``."""
    rng = np.random.default_rng(0)
    noise = rng.gumbel(size=(RUNS, routing.tokens, routing.experts))
    order = np.argsort(noise + (0 if chances is None else np.log(chances)), axis=-1)
    chosen = order[..., -routing.chosen :].reshape(RUNS, -1)
    return np.stack([np.bincount(each, minlength=routing.experts) for each in chosen])


@pytest.mark.parametrize("sizes", [(1, 2, 8), (4, 2, 8), (16, 2, 64), (40, 8, 256), (5, 3, 3)])
def test_as_many_experts_are_touched_as_the_formula_says(sizes: tuple[int, int, int]) -> None:
    routing = Routing(*sizes)
    found = np.count_nonzero(drawn(routing), axis=1).mean()
    assert routing.distinct == pytest.approx(found, rel=0.03)


def test_one_expert_for_all_touches_one() -> None:
    routing = Routing(50, 1, 4, shares=(0, 1, 0, 0))
    assert routing.loads == [(1.0, 50.0)]
    assert routing.distinct == 1


@given(st.integers(1, 50), st.integers(1, 4), st.lists(st.integers(0, 9), min_size=4, max_size=8))
def test_tokens_are_all_counted(tokens: int, chosen: int, shares: list[int]) -> None:
    shares[0] += 1
    routing = Routing(tokens, chosen, len(shares), None)
    assert sum(t * load for t, load in routing.loads) == pytest.approx(tokens * chosen)
    measured = Routing(tokens, 1, len(shares), shares)
    assert sum(t * load for t, load in measured.loads) == pytest.approx(tokens)


@pytest.mark.parametrize("sizes", [(128, 2, 8), (512, 2, 64), (256, 8, 256)])
def test_the_busiest_expert_has_so_many_more(sizes: tuple[int, int, int]) -> None:
    """Within the 11 % that the formula promises where experts have two tokens or more."""
    routing = Routing(*sizes)
    loads = drawn(routing)
    found = (loads.max(axis=1) / loads.mean(axis=1)).mean()
    assert routing.largest_over_mean == pytest.approx(found, rel=0.11)


def test_time_goes_by_what_is_touched() -> None:
    weights = [(2048, 512, (16, 1), 8 * 128 * 512), (512, 2048, (16, 1), 8 * 32 * 2048)]
    times = [mixture_ms(Routing(tokens, 2, 8), weights, TARGET).ms for tokens in (1, 4, 128, 512)]
    assert times == sorted(times)
    one = mixture_ms(Routing(1, 1, 8), weights, TARGET).ms
    all_of_them = mixture_ms(Routing(1, 8, 8), weights, TARGET).ms
    assert 7 < all_of_them / one < 8
