"""Pooling of images in rows and columns, on every instruction set, against numpy in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecc.backends.kernels.step_harness import (
    IMAGE_KINDS,
    PLAIN,
    Step,
    Tensor,
    build_image_steps,
    build_image_steps_sanitized,
    run_step,
)
from tests.backends.kernels.executables import fixtures
from tests.backends.kernels.layers import SEEDS, normal

EXAMPLES = 60


command, sanitized = fixtures(build_image_steps, build_image_steps_sanitized)


@dataclass(frozen=True)
class Pool:
    """A window over an image."""

    x: NDArray[np.float32]
    largest: bool
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    count_pads: bool = False
    backwards: bool = False

    def step(self) -> Step:
        attributes = [int(self.largest), *self.kernel, *self.strides, *self.pads, self.count_pads]
        inputs = [Tensor(self.x, self.x.shape, PLAIN)]
        return Step("pool", attributes, [], inputs, self.backwards, kinds=IMAGE_KINDS)

    def expected(self) -> NDArray[np.float64]:
        """Window by window, as ONNX defines it."""
        x = self.x.astype(np.float64)
        top, left, bottom, right = self.pads
        outside = ((0, 0), (0, 0), (top, bottom), (left, right))
        padded = np.pad(x, outside, constant_values=-np.inf if self.largest else 0)
        inside = np.pad(np.ones_like(x), outside, constant_values=float(self.count_pads))
        views, counts = (
            np.lib.stride_tricks.sliding_window_view(each, self.kernel, (2, 3))[
                :, :, :: self.strides[0], :: self.strides[1]
            ]
            for each in (padded, inside)
        )
        if self.largest:
            return np.asarray(views.max((4, 5)))
        return np.asarray(views.sum((4, 5)) / counts.sum((4, 5)))


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    rng = np.random.default_rng(draw(SEEDS))
    kernel = draw(st.tuples(*[st.integers(1, 7)] * 2))
    pads = tuple(draw(st.integers(0, size - 1)) for size in (*kernel, *kernel))
    least = [max(1, kernel[i] - pads[i] - pads[i + 2]) for i in (0, 1)]
    sides = [draw(st.integers(size, size + 50)) for size in least]
    x = normal(rng, draw(st.integers(1, 3)), draw(st.integers(1, 20)), *sides)
    strides = draw(st.tuples(*[st.integers(1, 4)] * 2))
    largest, count_pads, backwards = (draw(st.booleans()) for _ in range(3))
    return Pool(x, largest, kernel, strides, pads, count_pads and not largest, backwards)


def check(pool: Pool, command: Sequence[str]) -> None:
    got, want = run_step(pool.step(), command), pool.expected()
    assert got.dims == want.shape
    rounding = 0 if pool.largest else 2e-6 * float(np.abs(pool.x).max())
    np.testing.assert_allclose(got.data.reshape(got.dims), want, rtol=0, atol=rounding)


def test_pooling_is_its_numpy_meaning(command: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(pools())
    def holds(pool: Pool) -> None:
        check(pool, command)

    holds()


def test_pooling_has_no_undefined_behaviour(sanitized: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(pools())
    def holds(pool: Pool) -> None:
        check(pool, sanitized)

    holds()


@pytest.mark.parametrize("side", [112, 113])
def test_the_pooling_of_resnet(command: list[str], side: int) -> None:
    x = normal(np.random.default_rng(0), 1, 5, side, side)
    check(Pool(x, True, (3, 3), (2, 2), (1, 1, 1, 1)), command)


def test_a_window_that_cannot_be_is_refused(command: list[str]) -> None:
    x = normal(np.random.default_rng(0), 1, 2, 6, 6)
    for pool, message in (
        (Pool(x, False, (0, 0)), "malformed window"),
        (Pool(x, False, (0, 3)), "malformed window"),
        (Pool(x, False, (3, 0)), "malformed window"),
        (Pool(x, False, (3, 3), (0, 1)), "malformed window"),
        (Pool(x, False, (3, 3), pads=(3, 0, 0, 0)), "malformed window"),
        (Pool(x, False, (3, 3), pads=(0, 0, 0, -1)), "malformed window"),
        (Pool(x, False, (2000, 3)), "malformed window"),
        (Pool(x, False, (7, 3)), "smaller than the window"),
    ):
        with pytest.raises(RuntimeError, match=f"code 3: .*{message}"):
            run_step(pool.step(), command)
