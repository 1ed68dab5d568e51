"""The benchmark of the order of channels: its rows and its table."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import permutation as bench
from sparsecc.capture import capture
from sparsecc.passes.permute.search import Term
from tests import small


def test_rows_are_ordered_as_they_must_be() -> None:
    ((_, sets),) = [each for each in bench.drawn() if "clusters" in each[0]]
    row = bench.row_of("clusters", sets)
    as_it_is, by_size, greedy, searched, single = row.kept
    assert as_it_is < searched < single
    assert max(by_size, greedy) < searched
    assert row.recovered == pytest.approx((searched - as_it_is) / (single - as_it_is))


def test_single_zeros_keep_the_largest_weights() -> None:
    scores = np.array([[4, 1], [3, 2], [6, 0], [1, 3]], np.float32)
    assert bench._single((Term(scores, 4, density=0.5),)) == pytest.approx((6 + 4 + 3 + 3) / 20)


def test_a_model_has_one_problem_for_each_hidden_layer() -> None:
    found = bench.of_model(capture(small.mlp()))
    assert [len(terms[0].scores) for terms in found] == [small.WIDTH] * 2
    assert all(bench.whole(terms) for terms in found)


def test_the_table_has_a_line_for_each_family() -> None:
    row = bench.Row("drawn", 2, 64, (0.5, 0.55, 0.6, 0.7, 0.9), 1.25)
    line = bench.table([row]).splitlines()[-1]
    assert line.startswith("| drawn | 2 (≤ 64) | 0.500 | 0.550 | 0.600 | 0.700 | 0.900 ")
    assert line.endswith("| **50%** | 1.2 |")
