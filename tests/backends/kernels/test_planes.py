"""Means of images, images times a factor per channel, and flattening, against numpy in float64.

On every instruction set; the executable puts a page without access behind each array.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecc.backends.kernels.step_harness import (
    IMAGE_KINDS,
    Step,
    Tensor,
    build_image_steps,
    build_image_steps_sanitized,
    run_step,
)
from tests.backends.kernels.executables import fixtures
from tests.backends.kernels.layers import SEEDS, normal

EXAMPLES = 60
ROUNDING = 2e-6
SHAPES = st.one_of(
    st.tuples(*(st.integers(1, most) for most in (3, 40, 20, 40))),
    st.sampled_from([(1, 960, 7, 7), (2, 72, 28, 28), (1, 5, 112, 112), (3, 1, 1, 1)]),
)


command, sanitized = fixtures(build_image_steps, build_image_steps_sanitized)


def step(kind: str, *inputs: NDArray[np.float32], rank: int = 0, backwards: bool = False) -> Step:
    attributes = [rank] if rank else []
    tensors = [Tensor(x, x.shape) for x in inputs]
    return Step(kind, attributes, [], tensors, backwards, 1 + backwards, kinds=IMAGE_KINDS)


def check(given: Step, want: NDArray[np.float64], command: Sequence[str]) -> None:
    got = run_step(given, command)
    assert got.dims == want.shape
    np.testing.assert_allclose(got.data.reshape(got.dims), want, rtol=ROUNDING, atol=ROUNDING)


def check_mean(command: Sequence[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(SHAPES, st.sampled_from([2, 4]), st.booleans(), SEEDS)
    def holds(shape: tuple[int, ...], rank: int, backwards: bool, seed: int) -> None:
        x = normal(np.random.default_rng(seed), *shape)
        want = x.astype(np.float64).mean((2, 3), keepdims=rank == 4)
        check(step("mean", x, rank=rank, backwards=backwards), want, command)

    holds()


def check_scale(command: Sequence[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(SHAPES, st.booleans(), SEEDS)
    def holds(shape: tuple[int, ...], backwards: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        x, factors = normal(rng, *shape), normal(rng, *shape[:2], 1, 1)
        want = x.astype(np.float64) * factors
        check(step("scale", x, factors, backwards=backwards), want, command)

    holds()


def test_a_mean_is_its_numpy_meaning(command: list[str]) -> None:
    check_mean(command)


def test_a_product_with_factors_is_its_numpy_meaning(command: list[str]) -> None:
    check_scale(command)


def test_neither_has_undefined_behaviour(sanitized: list[str]) -> None:
    check_mean(sanitized)
    check_scale(sanitized)


@pytest.mark.parametrize("shape", [(3, 5), (2, 5, 1, 1), (2, 3, 4, 5), (2, 3, 4)])
@pytest.mark.parametrize("rank", [2, 4])
def test_flattening(command: list[str], shape: tuple[int, ...], rank: int) -> None:
    x = normal(np.random.default_rng(0), *shape)
    want = x.astype(np.float64).reshape(shape[0], -1, *[1] * (rank - 2))
    check(step("flatten", x, rank=rank), want, command)


X, FACTORS = np.ones((2, 3, 4, 5), np.float32), np.ones((2, 3, 1, 1), np.float32)
BAD = [
    (step("mean", X), "malformed"),
    (step("mean", X, X, rank=4), "malformed"),
    (step("mean", X, rank=3), "another rank"),
    (step("mean", X[0], rank=4), "not a float32 image"),
    (step("mean", X[:, :, :0], rank=4), "empty"),
    (step("mean", X.astype(np.int32), rank=4), "not a float32 image"),
    (step("scale", X), "malformed"),
    (step("scale", X, FACTORS, rank=4), "malformed"),
    (step("scale", X[0], FACTORS), "not a float32 image"),
    (step("scale", X, FACTORS[:1]), "not one factor"),
    (step("scale", X, FACTORS[:, :2]), "not one factor"),
    (step("scale", X, FACTORS[0]), "not one factor"),
    (step("scale", X, X), "not one factor"),
    (step("flatten", X), "malformed"),
    (step("flatten", X, rank=7), "another rank"),
    (step("flatten", X[0, 0, 0], rank=2), "not a plain"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_what_cannot_be_is_refused(command: list[str], bad: Step, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"code 3: .*{message}"):
        run_step(bad, command)
