"""Numbers written short."""

import pytest

from sparsecc.report.words import count, ms, size


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.012"), (0.9, "0.900"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234")],
)
def test_ms(value, text):
    assert ms(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1234, "1.2k"), (99_960, "100k"), (118e6, "118M"), (4.1e9, "4.1G")],
)
def test_count(value, text):
    assert count(value) == text


@pytest.mark.parametrize(("value", "text"), [(12, "12 B"), (3_400_000, "3.4 MB")])
def test_size(value, text):
    assert size(value) == text
