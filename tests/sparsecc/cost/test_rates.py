"""Rates: the fit finds the law that made the times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.cost.rates import fit_rate

PARTS = st.floats(1e-3, 10)
ELEMENTS = [1e3, 1e4, 3e4, 1e5, 1e6, 4e6]
MACS = [1e6, 1e5, 1e7, 3e7, 1e5, 1e8]


@given(PARTS, PARTS, PARTS)
def test_an_exact_law_is_found(call: float, element: float, mac: float) -> None:
    times = [call + (element * e + mac * m) * 1e-6 for e, m in zip(ELEMENTS, MACS, strict=True)]
    rate = fit_rate(ELEMENTS, MACS, times)
    for elements, macs, ms in zip(ELEMENTS, MACS, times, strict=True):
        assert rate.ms(elements, macs) == pytest.approx(ms, rel=2e-3)
    assert rate.spread < 2e-3


def test_no_part_is_negative_and_noise_is_the_spread() -> None:
    rng = np.random.default_rng(0)
    elements = np.geomspace(1e3, 1e6, 40)
    times = (1e-3 + elements * 1e-7) * np.exp(rng.normal(0, 0.2, 40))
    rate = fit_rate(list(elements), [0.0] * 40, list(times))
    assert min(rate.call_ms, rate.element_ns, rate.mac_ns) >= 0
    assert 0.1 < rate.spread < 0.3
    assert rate.element_ns == pytest.approx(0.1, rel=0.2)
