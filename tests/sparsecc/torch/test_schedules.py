from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.errors import PlanError
from sparsecc.formats.patterns import Pattern, SparsitySpec, block_sums
from sparsecc.torch.schedules import (
    LEFT_AT_THE_END,
    Dynamic,
    Gradual,
    Matrix,
    Moment,
    Progressive,
    SrSte,
    by_size,
    drop_and_grow,
    tightening,
)

patterns = st.sampled_from(["unstructured", "4x1", "16x1", "1x4", "4x4"]).map(Pattern.parse)
seeds = st.integers(0, 2**16)


def moment(
    spec: str,
    weight: Matrix,
    mask: np.ndarray | None = None,
    gradient: Matrix | None = None,
    seed: int = 0,
) -> Moment:
    def given_gradient() -> Matrix:
        assert gradient is not None, "this schedule needs no gradient"
        return gradient

    asked = SparsitySpec.parse(spec)
    assert asked.pattern is not None
    rng = np.random.default_rng(seed)
    return Moment(asked.pattern, asked.sparsity, lambda: weight, mask, given_gradient, rng)


def normal(seed: int, shape: tuple[int, int] = (32, 48)) -> Matrix:
    return np.random.default_rng(seed).standard_normal(shape)


def test_gradual_sparsity_is_the_cubic_of_zhu_and_gupta() -> None:
    schedule = Gradual(end=110, begin=10, every=10)
    for step in range(10, 111, 10):
        # s_f + (s_i - s_f) (1 - (t - t0) / (n Δt))³ with s_i = 0
        expected = 0.9 + (0 - 0.9) * (1 - (step - 10) / (10 * 10)) ** 3
        assert schedule.sparsity(step, 0.9) == pytest.approx(expected)
    assert schedule.sparsity(3, 0.9) == 0
    assert schedule.sparsity(500, 0.9) == pytest.approx(0.9)


def test_gradual_masks_are_due_every_few_steps_and_at_the_end() -> None:
    schedule, weight = Gradual(end=25, begin=5, every=10), normal(0)
    mask = np.ones(weight.shape, bool)
    due = [t for t in range(1, 40) if schedule.mask(t, moment("4x1:0.5", weight, mask)) is not None]
    assert due == [5, 15, 25]


@given(seeds, patterns)
def test_gradual_masks_only_ever_lose_blocks(seed: int, pattern: Pattern) -> None:
    schedule, weight = Gradual(end=10, every=1), normal(seed)
    mask = schedule.mask(0, moment(f"{pattern}:0.8", weight))
    assert mask is not None
    assert mask.all()
    noise = np.random.default_rng(seed + 1)
    for step in range(1, 11):
        weight = (weight + 0.3 * noise.standard_normal(weight.shape)) * mask
        fresh = schedule.mask(step, moment(f"{pattern}:0.8", weight, mask))
        assert fresh is not None
        assert not (fresh & ~mask).any()
        mask = fresh
    assert 1 - mask.mean() == pytest.approx(0.8, abs=0.01)


@given(seeds, patterns, st.floats(0, 1), st.floats(0.05, 0.95))
def test_dropping_and_growing_equals_a_loop_over_blocks(
    seed: int, pattern: Pattern, share: float, sparsity: float
) -> None:
    weight, gradient = normal(seed), normal(seed + 1)
    mask = by_size(normal(seed + 2), pattern, sparsity)
    weight = weight * mask
    sizes, grow_by = (block_sums(np.square(w), pattern.block) for w in (weight, gradient))
    kept = block_sums(mask.astype(float), pattern.block) > 0

    expected = {(int(a), int(b)) for a, b in np.argwhere(kept)}
    every = {(int(a), int(b)) for a, b in np.ndindex(kept.shape)}
    change = min(int(share * len(expected)), len(every) - len(expected))
    expected -= set(sorted(expected, key=lambda at: sizes[at])[:change])
    absent = sorted(every - expected, key=lambda at: -grow_by[at])
    expected |= set(absent[:change])

    found = drop_and_grow(weight, mask, grow_by, pattern, share)
    blocks = block_sums(found.astype(float), pattern.block)
    assert set(map(tuple, np.argwhere(blocks > 0).tolist())) == expected
    assert found.sum() == mask.sum()
    assert (blocks[blocks > 0] == np.prod(pattern.block)).all()


def test_the_share_that_is_replaced_falls_as_half_a_cosine() -> None:
    schedule = Dynamic(end=100, fraction=0.3)
    assert schedule.share(0) == pytest.approx(0.3)
    assert schedule.share(50) == pytest.approx(0.15)
    assert schedule.share(25) == pytest.approx(0.15 * (1 + np.sqrt(0.5)))
    assert schedule.share(100) == schedule.share(1000) == pytest.approx(0)


@given(seeds, patterns)
def test_set_needs_no_gradient_and_its_seed_decides(seed: int, pattern: Pattern) -> None:
    schedule, weight = Dynamic(end=100, every=5, grow="random"), normal(seed)
    first = schedule.mask(0, moment(f"{pattern}:0.75", weight))
    assert first is not None
    one, same, other = (
        schedule.mask(5, moment(f"{pattern}:0.75", weight * first, first, seed=seed))
        for seed in (1, 1, 2)
    )
    assert one is not None
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert one.sum() == first.sum()
    assert (one != first).any()


def test_dynamic_masks_rest_between_changes_and_after_the_end() -> None:
    schedule, weight = Dynamic(end=20, every=5), normal(0)
    first = schedule.mask(0, moment("4x1:0.5", weight))
    at = moment("4x1:0.5", weight, first, gradient=normal(1))
    assert [step for step in range(1, 30) if schedule.mask(step, at) is not None] == [5, 10, 15]


@pytest.mark.parametrize(
    ("decay_by", "middle"),
    [("linear", 0.5), ("exponential", LEFT_AT_THE_END**0.5), ("stepwise", 0)],
)
def test_beta_falls_from_a_dense_warm_up_to_a_binary_tail(decay_by: str, middle: float) -> None:
    schedule = Progressive(begin=10, end=30, decay_by=decay_by)  # type: ignore[arg-type]
    betas = [schedule.beta(step) for step in range(60)]
    assert betas[20] == pytest.approx(middle)
    assert betas == sorted(betas, reverse=True)
    assert set(betas[30:]) == {0}
    if decay_by != "stepwise":  # there the first phase is dense by its pattern
        assert set(betas[:11]) == {1}


def test_stepwise_goes_from_8_8_by_4_8_to_2_8() -> None:
    schedule, weight = Progressive(begin=10, end=30, decay_by="stepwise"), normal(0)
    kept = [
        int(schedule.mask(step, moment("2:8", weight)).reshape(-1, 8).sum(1).max())
        for step in (0, 10, 19, 20, 29, 30, 99)
    ]
    assert kept == [8, 8, 8, 4, 4, 2, 2]


def test_tightening_halves_what_is_kept() -> None:
    def words(spec: str) -> list[str]:
        asked = SparsitySpec.parse(spec)
        assert asked.pattern is not None
        return [str(SparsitySpec(*each)) for each in tightening(asked.pattern, asked.sparsity)]

    assert words("2:8") == ["dense", "4:8", "2:8"]
    assert words("2:4") == ["dense", "2:4"]
    assert words("1:16") == ["dense", "8:16", "4:16", "2:16", "1:16"]
    assert words("4x1:0.8") == ["dense", "4x1:0.5", "4x1:0.75", "4x1:0.8"]
    assert words("4x1:0.4") == ["dense", "4x1:0.4"]


@given(seeds, st.sampled_from(["2:4", "1:4", "2:8", "4x1:0.75", "1x4:0.5", "unstructured:0.9"]))
def test_soft_masks_are_the_largest_weights(seed: int, spec: str) -> None:
    weight = normal(seed)
    at = moment(spec, weight)
    for schedule in (Progressive(0, 10), SrSte()):
        mask = schedule.mask(3, at)
        np.testing.assert_array_equal(mask, by_size(weight, at.pattern, at.sparsity))
        assert 1 - mask.mean() == pytest.approx(at.sparsity, abs=0.01)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gradual(end=0),
        lambda: Gradual(end=10, begin=10),
        lambda: Gradual(end=10, every=0),
        lambda: Dynamic(end=10, fraction=0),
        lambda: Dynamic(end=10, fraction=1.5),
        lambda: Dynamic(end=10, grow="best"),  # type: ignore[arg-type]
        lambda: Progressive(-1, 10),
        lambda: Progressive(0, 10, "cubic"),  # type: ignore[arg-type]
    ],
)
def test_impossible_schedules_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(PlanError) as caught:
        make()
    assert caught.value.fix
