"""The recovery benchmark on a case of a few steps, with everything real."""

from __future__ import annotations

import dataclasses
import json

import pytest

from benchmarks import recovery


@pytest.fixture
def quick(monkeypatch) -> None:
    case = dataclasses.replace(recovery.CASES["digits"], effort="30 steps")
    monkeypatch.setattr(recovery, "CASES", {"digits": case})


def test_a_case_is_measured_written_and_shown(quick, tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- recovery:begin --><!-- recovery:end -->\nb\n")
    out = tmp_path / "rows.json"
    recovery.main("digits", 0.2, out, page)
    result = recovery._read(out)["digits"]
    assert json.loads(out.read_text())[0]["case"] == "digits"
    assert result.steps == 30
    assert result.without is not None
    assert result.recovered.drop <= result.without.drop  # 90 % zeros without recovery cost much
    assert result.dense > 0.9
    line = next(line for line in page.read_text().splitlines() if "unstructured:0.9" in line)
    assert "30 steps, 30 steps" in line
    assert f"{result.dense:.2%}" in line
