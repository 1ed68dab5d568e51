"""From the pixels of an image to tokens, and from tokens to one, against numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.backends.kernels.step_harness import (
    T64,
    TOKEN_KINDS,
    Step,
    Tensor,
    from_t64,
    run_outputs,
    to_t64,
)
from tests.backends.kernels import test_transformer_steps as rows
from tests.backends.kernels.test_transformer_steps import EXAMPLES, SEEDS, Floats, normal

command = rows.command
sanitized = rows.sanitized


@dataclass(frozen=True)
class Case:
    """An image and what is put to its tokens."""

    image: Floats
    first: list[Floats]
    before: Floats | None
    after: Floats | None
    lanes: bool

    def step(self) -> Step:
        terms = [term for term in (self.before, self.after) if term is not None]
        attributes = [int(self.lanes), self.before is not None, self.after is not None]
        image = Tensor(self.image, self.image.shape)
        constants = [*self.first, *terms]
        numbers = [*map(int, attributes), len(self.first)]
        return Step("patches", numbers, constants, [image], kinds=TOKEN_KINDS)

    def meaning(self) -> Floats:
        batch, width = self.image.shape[:2]
        x = self.image.reshape(batch, width, -1).swapaxes(1, 2)
        x = x if self.before is None else x + self.before
        first = [np.broadcast_to(each, (batch, *each.shape[-2:])) for each in self.first]
        x = np.concatenate([*first, x], axis=1)
        return x if self.after is None else x + self.after


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rng = np.random.default_rng(draw(SEEDS))
    lanes = draw(st.booleans())
    width = draw(st.integers(16, 40) if lanes else st.integers(1, 15))
    sides = draw(st.integers(1, 11)), draw(st.integers(1, 11))
    image = normal(rng, draw(st.integers(1, 3)), width, *sides)
    first = [
        normal(rng, 1, count, width) for count in draw(st.lists(st.integers(1, 3), max_size=2))
    ]
    pixels = sides[0] * sides[1]
    every = pixels + sum(each.shape[1] for each in first)
    before = normal(rng, 1, pixels, width) if draw(st.booleans()) else None
    after = normal(rng, every, width) if draw(st.booleans()) else None
    return Case(image, first, before, after, lanes)


def check(command: Sequence[str], case: Case) -> None:
    (got,) = run_outputs(case.step(), command)
    want = case.meaning()
    assert got.dims == want.shape
    assert (got.layout == T64) == case.lanes
    rows = from_t64(got) if case.lanes else got.data.reshape(got.dims)
    np.testing.assert_allclose(
        rows.astype(np.float32), want, rtol=0, atol=1e-6 * np.abs(want).max()
    )


def test_patches_become_tokens(command: list[str]) -> None:
    @settings(max_examples=2 * EXAMPLES)
    @given(cases())
    def holds(case: Case) -> None:
        check(command, case)

    holds()


def test_one_token_or_the_mean_of_all(command: list[str]) -> None:
    @settings(max_examples=2 * EXAMPLES)
    @given(SEEDS, st.integers(1, 3), st.integers(1, 140), st.integers(16, 50), st.booleans())
    def holds(seed: int, batch: int, length: int, width: int, lanes: bool) -> None:
        x = normal(np.random.default_rng(seed), batch, length, width)
        tensor = to_t64(x, np.nan) if lanes else Tensor(x, x.shape)
        index = seed % (2 * length) - length
        for mean, want in ((0, x[:, index]), (1, x.astype(np.float64).mean(axis=1))):
            step = Step("select", [index, mean], [], [tensor], kinds=TOKEN_KINDS)
            (got,) = run_outputs(step, command)
            assert got.dims == want.shape
            np.testing.assert_allclose(got.data.reshape(got.dims), want, rtol=0, atol=1e-6 * length)

    holds()


def zeros(*shape: int) -> Floats:
    return np.zeros(shape, np.float32)


IMAGE = [Tensor(zeros(1, 20, 3, 3), (1, 20, 3, 3))]
BAD = {
    "a malformed step": ([1, 0, 0, 2], [zeros(1, 1, 20)], IMAGE),
    "different sizes": ([1, 0, 1, 1], [zeros(1, 1, 20), zeros(10, 19)], IMAGE),
    "different numbers": ([1, 1, 1, 1], [zeros(1, 1, 20), zeros(9, 20), zeros(9, 20)], IMAGE),
    "fewer tokens": ([1, 0, 1, 1], [zeros(1, 3, 20), zeros(2, 20)], IMAGE),
    "number of patches": ([1, 0, 1, 1], [zeros(1, 1, 20), zeros(9, 20)], IMAGE),
    "other channels": ([1, 0, 0, 1], [zeros(1, 1, 19)], IMAGE),
    "16 features": ([1, 0, 0, 0], [], [Tensor(zeros(1, 9, 2, 2), (1, 9, 2, 2))]),
    "not a float32 image": ([1, 0, 0, 0], [], [Tensor(zeros(4, 20), (4, 20))]),
}


@pytest.mark.parametrize("message", BAD)
def test_what_does_not_fit_is_refused(sanitized: list[str], message: str) -> None:
    attributes, constants, inputs = BAD[message]
    step = Step("patches", attributes, constants, inputs, kinds=TOKEN_KINDS)
    with pytest.raises(RuntimeError, match=message):
        run_outputs(step, sanitized)


def test_nothing_is_undefined(sanitized: list[str]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(cases())
    def holds(case: Case) -> None:
        check(sanitized, case)

    holds()
