"""Efforts are read from what people write."""

from __future__ import annotations

import pytest

from sparsecc.errors import PlanError
from sparsecc.quality.effort import Effort


@pytest.mark.parametrize(
    ("text", "effort"),
    [
        ("10min", Effort(seconds=600)),
        (" 90 s", Effort(seconds=90)),
        ("1.5h", Effort(seconds=5400)),
        ("400 steps", Effort(steps=400)),
        ("1 step", Effort(steps=1)),
    ],
)
def test_times_and_steps(text: str, effort: Effort) -> None:
    assert Effort.parse(text) == effort
    assert Effort.parse(str(effort)) == effort


@pytest.mark.parametrize(
    "text",
    ["", "10", "min", "0min", "-3 steps", "2.5 steps", "0 steps", "10 days", "9e9s", "999999h"],
)
def test_anything_else_is_one_clear_error(text: str) -> None:
    with pytest.raises(PlanError, match="not an effort"):
        Effort.parse(text)
