from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.simulate import costs
from sparsecc.simulate.cluster import Device
from sparsecc.simulate.described import along
from tests.sparsecc.simulate.described import model

PEAK, BANDWIDTH = 1e12, 1e11
IDEAL = Device(peak={"float32": PEAK}, memory=1e9, bandwidth=BANDWIDTH)
REAL = Device.model_validate(
    {
        "peak": {"float32": PEAK},
        "memory": 1e9,
        "bandwidth": BANDWIDTH,
        "streamed": [[1e3, 0.2], [1e6, 0.8]],
        "start": 1e-6,
        "speeds": {
            "matrix": {"start": 1e-6, "rows": 16, "columns": 32, "half_depth": 40},
            "experts": {"start": 2e-6, "rows": 16, "achieved": [[1e5, 0.2], [1e9, 0.9]]},
            "attention": {"achieved": [[1e5, 0.1], [1e9, 0.5]]},
        },
    },
    strict=False,
)
SMALL = model(dtype="float32")
SIDE = st.integers(1, 3000)


@given(SIDE, SIDE, SIDE)
def test_a_product_is_the_longer_of_arithmetic_and_memory(m, k, n):
    arithmetic = 2 * m * k * n / PEAK
    moved = 4 * (m * k + k * n + m * n) / BANDWIDTH
    assert costs.product(IDEAL, SMALL, m, k, n) == pytest.approx(max(arithmetic, moved))


@given(SIDE, SIDE, SIDE, st.sampled_from([IDEAL, REAL]))
def test_a_larger_product_takes_no_less(m, k, n, device):
    once = costs.product(device, SMALL, m, k, n) * (1 - 1e-12)
    for more in ((m + 1, k, n), (m, k + 1, n), (m, k, n + 1)):
        assert costs.product(device, SMALL, *more) >= once


@given(SIDE, SIDE, SIDE)
def test_sides_are_rounded_up_to_tiles(m, k, n):
    whole = 16 * math.ceil(m / 16), k, 32 * math.ceil(n / 32)
    flops = 2 * math.prod(whole) * (k + 40) / k
    moved = 4 * (m * k + k * n + m * n) / BANDWIDTH
    expected = 1e-6 + max(flops / PEAK, moved)
    assert costs.product(REAL, SMALL, m, k, n) == pytest.approx(expected)


@given(SIDE, SIDE, SIDE)
def test_backward_is_two_products(m, k, n):
    expected = costs.product(REAL, SMALL, m, n, k) + costs.product(REAL, SMALL, k, m, n)
    assert costs.product_backward(REAL, SMALL, m, k, n) == expected


@given(st.lists(st.integers(0, 200), max_size=12), st.booleans())
def test_experts_are_the_sum_of_each(tokens, backward):
    def time(loads):
        return costs.experts(REAL, SMALL, loads, backward=backward)

    assert time(tokens) == pytest.approx(sum(time([each]) for each in tokens))
    assert time([0, *tokens, 0]) == time(tokens)
    assert time([]) == 0


def test_an_expert_is_its_two_products():
    d, up, width = 256, 1024, 512
    forward = [(7, d, up), (7, width, d)]
    expected = sum(costs.product(REAL, SMALL, *size, operator="experts") for size in forward)
    assert costs.experts(REAL, SMALL, [7]) == pytest.approx(expected)


def test_attention_sees_half_of_the_scores():
    s, heads, dims = SMALL.sequence, 8, 64
    flops = 3 * heads * s * (s + 1) * dims
    moved = 2 * 4 * 3 * heads * s * dims
    expected = max(flops / PEAK, moved / BANDWIDTH)
    assert costs.attention(IDEAL, SMALL, 3, heads) == pytest.approx(expected)


@given(st.floats(1, 1e12), st.floats(1, 1e12))
def test_streaming_more_takes_longer(first, second):
    low, high = sorted((first, second))
    # A curve may rise no faster than the sizes do; this one does not.
    assert costs.streaming(REAL, low) <= costs.streaming(REAL, high) * (1 + 1e-12)


def test_streaming_nothing_takes_nothing():
    assert costs.streaming(REAL, 0) == 0


@given(st.floats(1e-3, 1e15))
def test_a_curve_stays_between_its_points(size):
    curve = ((10.0, 0.2), (1e3, 0.9), (1e6, 0.5))
    assert 0.2 - 1e-12 <= along(curve, size) <= 0.9 + 1e-12
    assert along(curve, 100.0) == pytest.approx(0.55)
    assert [along(curve, at) for at, _ in curve] == pytest.approx([0.2, 0.9, 0.5])
