"""Rates: the fit finds the law that made the times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.cost.rates import Sums, fit_rate

PARTS = st.floats(1e-3, 10)
ELEMENTS = [1e3, 1e4, 3e4, 1e5, 1e6, 4e6]
MACS = [1e6, 1e5, 1e7, 3e7, 1e5, 1e8]
COUNTED = [Sums(1, elements, macs) for elements, macs in zip(ELEMENTS, MACS, strict=True)]


@given(PARTS, PARTS, PARTS)
def test_an_exact_law_is_found(call: float, element: float, mac: float) -> None:
    times = [call + (element * e + mac * m) * 1e-6 for e, m in zip(ELEMENTS, MACS, strict=True)]
    rate = fit_rate(COUNTED, times)
    for sums, ms in zip(COUNTED, times, strict=True):
        assert rate.ms(sums) == pytest.approx(ms, rel=2e-3)
    assert rate.spread < 2e-3


def test_no_part_is_negative_and_noise_is_the_spread() -> None:
    rng = np.random.default_rng(0)
    elements = np.geomspace(1e3, 1e6, 40)
    times = (1e-3 + elements * 1e-7) * np.exp(rng.normal(0, 0.2, 40))
    rate = fit_rate([Sums(1, each) for each in elements], list(times))
    assert min(rate.call_ms, rate.element_ns, rate.mac_ns) >= 0
    assert 0.1 < rate.spread < 0.3
    assert rate.element_ns == pytest.approx(0.1, rel=0.2)


def test_errors_may_be_relative_to_something_else_that_times_are_part_of() -> None:
    """A saving may be negative by noise; it is weighed against the whole, and never told as one."""
    rng = np.random.default_rng(1)
    counted = [Sums(float(n), 1e5 * n) for n in rng.integers(1, 7, 200)]
    whole = [0.2 * sums.calls for sums in counted]
    law = [0.001 * sums.calls + 2e-7 * sums.elements for sums in counted]
    noisy = [ms + 0.05 * of * rng.normal() for ms, of in zip(law, whole, strict=True)]
    assert min(noisy) < 0
    rate = fit_rate(counted, noisy, whole)
    assert min(rate.call_ms, rate.element_ns) >= 0
    for sums, ms in zip(counted, law, strict=True):
        assert rate.ms(sums) == pytest.approx(ms, rel=0.2)
    assert 0.3 < rate.spread < 0.7  # a twentieth of the whole, of which a tenth is saved
