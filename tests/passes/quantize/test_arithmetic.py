"""Scales and rounding."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.passes.quantize.arithmetic import quantize_bias, quantize_rows, scale_of

NUMBERS = st.floats(-1e6, 1e6)


@given(NUMBERS, NUMBERS)
def test_a_scale_reaches_both_ends_and_has_zero(a: float, b: float) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    scale = scale_of(low, high)
    assert 0 <= scale.zero <= 255
    if high - low < 1e-30:
        return
    for number in (low, 0.0, high):
        back = (scale.byte(number) - scale.zero) * scale.scale
        assert abs(back - number) <= 1.01 * scale.scale
    assert scale.byte(0.0) == scale.zero


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1), st.integers(0, 99))
def test_rows_keep_their_zeros_and_half_a_step(rows: int, cols: int, axis: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((rows, cols)) * rng.integers(0, 2, (rows, cols))).astype("f4")
    stored, scale = quantize_rows(weight, axis)
    wide = np.expand_dims(scale, 1 - axis)
    assert np.abs(stored.astype(int)).max() <= 127
    assert not stored[weight == 0].any()
    assert np.all(np.abs(stored * wide - weight) < 0.5001 * wide)


def test_a_bias_beyond_int32_stays_within() -> None:
    whole = quantize_bias(np.array([1e30, -1e30, 3.0]), np.array([1.0, 1.0, 2.0], np.float32))
    assert whole.tolist() == [2**31 - 1, -(2**31) + 1, 2]
