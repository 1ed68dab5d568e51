from __future__ import annotations

import pytest

from benchmarks.cost import Pair, mape, section, tau

PAIRS = [
    Pair("a", "1", 1.1, 1.0),
    Pair("a", "2", 1.8, 2.0),
    Pair("b", "3", 3.0, 3.0),
]


def test_figures_follow_from_the_pairs() -> None:
    assert mape(PAIRS) == pytest.approx(0.2 / 3)
    assert tau(PAIRS) == pytest.approx(1)
    assert tau([Pair("a", "", 2, 1), Pair("a", "", 1, 2)]) == pytest.approx(-1)


def test_the_section_has_a_line_per_kernel_and_model() -> None:
    text = section(
        [*PAIRS, PAIRS[-1]], [Pair("net", z, 1.1, 1.0) for z in ("4x1:0.9", "0.5")], "0123"
    )
    assert "| a | 2 | 10.0% | 1.000 |" in text
    assert "| **all** | 4 | **5.0%** | **1.000** |" in text
    assert "| net | 4x1:0.9 | 1.10 | 1.00 | +10.0% |" in text
    assert "cost table 0123" in text
