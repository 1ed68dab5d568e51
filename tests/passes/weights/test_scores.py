from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsecc.passes.weights.scores import damped, inverse_cholesky, wanda


def covariance(cols: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4 * cols, cols)) @ rng.standard_normal((cols, cols))
    return x.T @ x / len(x) + 0.01 * np.eye(cols)


def test_wanda_is_weight_times_input_norm_squared() -> None:
    x = np.random.default_rng(0).standard_normal((50, 3))
    w = np.array([[1.0, -2.0, 0.5]])
    expected = (np.abs(w) * np.linalg.norm(x, axis=0)) ** 2 / len(x)
    np.testing.assert_allclose(wanda(w, x.T @ x / len(x)), expected)


def test_inverse_cholesky_is_the_upper_factor_of_the_inverse() -> None:
    h = covariance(12, 0)
    u = inverse_cholesky(h)
    assert np.array_equal(u, np.triu(u))
    np.testing.assert_allclose(u.T @ u, np.linalg.inv(h), rtol=1e-8)


def test_damping_is_relative_to_the_live_inputs() -> None:
    h = np.diag([2.0, 0.0, 4.0])
    result, dead = damped(h, 0.01)
    assert dead.tolist() == [False, True, False]
    assert np.diag(result) == pytest.approx([2.03, 1.0, 4.03])
    assert np.array_equal(h, np.diag([2.0, 0.0, 4.0]))
    everything, _ = damped(np.zeros((2, 2)), 0.01)
    assert np.array_equal(everything, np.eye(2))
