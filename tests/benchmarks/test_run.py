from __future__ import annotations

import numpy as np
import pytest

from benchmarks import run

ROW = run.Row("resnet50", "4x1:0.8", 1, 10.0, 32.0, 3.2, 3.1, 3.3, 1e-6, 2e-6, 4.0, 30.0)


def test_the_table_stands_between_the_markers() -> None:
    page = f"before\n{run.BEGIN}\nold\n{run.END}\nafter\n"
    once = run.splice(page, [ROW])
    assert "| resnet50 | 4x1:0.8 | 1 | 32.00 | 10.00 | **3.20** | 3.10–3.30 | 1e-06 |" in once
    assert "old" not in once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert run.splice(once, [ROW]) == once


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="markers"):
        run.splice("no table here", [ROW])


def test_header_and_rows_have_the_same_columns() -> None:
    assert {line.count("|") for line in run.table([ROW]).splitlines()} == {9}


def test_errors_are_relative_to_the_largest_value() -> None:
    assert run.relative_error(np.array([1.0, -4.2]), np.array([1.0, -4.0])) == pytest.approx(0.05)
