"""SparseGPT, ALPS and the refit against their textbook definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecc.formats.patterns import (
    Pattern,
    block_sums,
    expand_blocks,
    keep_highest,
    mask_from_scores,
)
from sparsecc.passes.weights.alps import alps
from sparsecc.passes.weights.refit import refit
from sparsecc.passes.weights.scores import damped, magnitude
from sparsecc.passes.weights.sparsegpt import sparsegpt

Matrix = NDArray[np.float64]
examples = settings(deadline=None, max_examples=20, derandomize=True)
PATTERNS = ["unstructured", "2x1", "4x1", "16x1", "1x2", "1x4", "2:4", "1:4", "4:8"]


def problem(rows: int, cols: int, seed: int = 0) -> tuple[Matrix, Matrix]:
    """Weights and the second moment of correlated inputs."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((cols, cols)) * np.exp(-np.arange(cols) / cols)[:, None]
    x = rng.standard_normal((6 * cols, cols)) @ mix
    return rng.standard_normal((rows, cols)), x.T @ x / len(x)


def error(w: Matrix, v: Matrix, h: Matrix) -> float:
    return float(np.vdot((w - v) @ h, w - v) / np.vdot(w @ h, w))


def obs_left_to_right(w: Matrix, mask: NDArray[np.bool_], h: Matrix) -> Matrix:
    """Optimal brain surgeon: remove weights one by one; only those to the right make up for it."""
    v, (rows, cols) = w.copy(), w.shape
    for j in range(cols):
        inverse = np.linalg.inv(h[j:, j:])
        for i in range(rows):
            if not mask[i, j]:
                v[i, j:] -= v[i, j] / inverse[0, 0] * inverse[0]
                v[i, j] = 0
    return v


@pytest.mark.parametrize("cols", [5, 40, 150])
def test_sparsegpt_equals_exact_obs_for_a_fixed_mask(cols: int) -> None:
    w, h = problem(6, cols)
    mask = np.random.default_rng(1).random(w.shape) > 0.5
    found, kept = sparsegpt(w, h, Pattern.parse("unstructured"), 0.5, mask=mask)
    expected = obs_left_to_right(w, mask, damped(h, 0.01)[0])
    assert np.array_equal(kept, mask)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def loss_of_dropping(w: Matrix, h: Matrix, gone: range) -> float:
    """Least loss (w − v)ᵀ H (w − v) of a row over all v that are zero at ``gone``."""
    kept = [j for j in range(len(w)) if j not in gone]
    v = np.zeros_like(w)
    if kept:
        v[kept] = np.linalg.solve(h[np.ix_(kept, kept)], h[kept] @ w)
    return float((w - v) @ h @ (w - v))


@examples
@given(
    st.integers(1, 12),
    st.integers(2, 24),
    st.sampled_from([(1, 1), (4, 1), (1, 2), (1, 4), (1, 8)]),
    st.integers(0, 1000),
)
def test_sparsegpt_drops_the_blocks_of_the_least_exact_loss(
    rows: int, cols: int, block: tuple[int, int], seed: int
) -> None:
    """A block's loss is what the columns to its right cannot make up for, tails included."""
    w, h = problem(rows, cols, seed)
    pattern = Pattern("unstructured" if block == (1, 1) else "block", block)
    _, mask = sparsegpt(w, h, pattern, 0.5)
    exact = damped(h, 0.01)[0]
    row_losses = np.array(
        [
            [
                loss_of_dropping(row[at:], exact[at:, at:], range(min(block[1], cols - at)))
                for at in range(0, cols, block[1])
            ]
            for row in w
        ]
    )
    losses = block_sums(row_losses, (block[0], 1))
    kept = keep_highest(losses, round(0.5 * losses.size))
    assert np.array_equal(mask, expand_blocks(kept, block, w.shape))


@examples
@given(
    st.integers(1, 37),
    st.integers(1, 150),
    st.sampled_from(PATTERNS),
    st.floats(0, 0.95),
    st.sampled_from(["sparsegpt", "alps"]),
)
def test_masks_hold_the_pattern_exactly(
    rows: int, cols: int, text: str, sparsity: float, method: str
) -> None:
    w, h = problem(rows, cols)
    pattern = Pattern.parse(text)
    if method == "sparsegpt":
        values, mask = sparsegpt(w, h, pattern, sparsity)
        assert not values[~mask].any()
    else:
        mask = alps(w, h, pattern, sparsity)
    if pattern.kind == "nm":
        for start in range(0, cols, pattern.group):
            width = min(pattern.group, cols - start)
            kept = mask[:, start : start + pattern.group].sum(axis=1)
            assert set(kept) == {min(pattern.keep, width)}
        return
    held = block_sums(mask, pattern.block)
    full = block_sums(np.ones(mask.shape), pattern.block)
    assert np.all((held == 0) | (held == full))
    assert np.count_nonzero(held == 0) == round(sparsity * held.size)


@examples
@given(
    st.integers(1, 20),
    st.integers(2, 40),
    st.floats(0.05, 0.95),
    st.sampled_from(["unstructured", "4x1"]),
    st.sampled_from([1e-6, 0.1]),
)
def test_refit_is_least_squares_on_every_support(
    rows: int, cols: int, sparsity: float, text: str, ridge: float
) -> None:
    w, h = problem(rows, cols)
    mask = mask_from_scores(np.random.default_rng(0).random(w.shape), Pattern.parse(text), sparsity)
    found = refit(w, mask, h, ridge)
    damped_h = h + ridge * np.diag(h).mean() * np.eye(cols)
    root = np.linalg.cholesky(damped_h).T
    for row, kept, value in zip(w, mask, found, strict=True):
        expected = np.zeros(cols)
        expected[kept] = np.linalg.lstsq(root[:, kept], root @ row, rcond=None)[0]
        np.testing.assert_allclose(value, expected, atol=1e-6)


def test_refit_tends_to_the_mask_alone_and_keeps_full_rows() -> None:
    w, h = problem(8, 16)
    mask = np.random.default_rng(0).random(w.shape) > 0.5
    np.testing.assert_allclose(refit(w, mask, h, 1e9), np.where(mask, w, 0), atol=1e-6)
    mask[0], mask[1] = True, False
    found = refit(w, mask, h, 0.01)
    assert np.array_equal(found[0], w[0])
    assert not found[1].any()


def test_dead_inputs_are_dropped_first_and_break_nothing() -> None:
    w, h = problem(8, 32)
    h[:, ::4] = h[::4] = 0
    pattern = Pattern.parse("unstructured")
    _, mask = sparsegpt(w, h, pattern, 0.25)
    assert not mask[:, ::4].any()
    assert not alps(w, h, pattern, 0.25)[:, ::4].any()
    assert np.isfinite(refit(w, mask, h, 0.01)).all()
    for values in sparsegpt(w, np.zeros_like(h), pattern, 0.5):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("text", ["unstructured:0.5", "4x1:0.5", "1x4:0.5", "2:4", "16x1:0.8"])
def test_each_step_lowers_the_error_on_correlated_inputs(text: str) -> None:
    name, _, amount = text.partition(":0")
    pattern = Pattern.parse(name)
    sparsity = float(amount or 0.5)
    w, h = problem(64, 96)
    by_size = mask_from_scores(magnitude(w), pattern, sparsity)
    updated, mask = sparsegpt(w, h, pattern, sparsity)
    better = alps(w, h, pattern, sparsity)
    errors = [
        error(w, np.where(by_size, w, 0), h),
        error(w, updated, h),
        error(w, refit(w, mask, h, 1e-4), h),
        error(w, refit(w, better, h, 1e-4), h),
    ]
    assert errors == sorted(errors, reverse=True)
