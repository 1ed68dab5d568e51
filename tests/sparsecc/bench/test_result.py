"""Medians, quartiles and rates of measured rounds."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.bench.result import Round, summarise

TIMES = st.lists(st.floats(0.01, 1e3), min_size=1, max_size=5)


def result_of(rounds):
    return summarise(
        rounds, threads=2, peak_rss_mb=(10.0, 20.0), baseline="b.onnx", max_rel_difference=None
    )


def test_figures_of_known_rounds():
    result = result_of([Round([1, 1, 9], [4]), Round([2], [4]), Round([1], [3])])
    assert result.ours_ms == 1
    assert result.baseline_ms == 4
    assert (result.ratio_low, result.ratio, result.ratio_high) == (2.5, 3, 3.5)
    assert (result.runs, result.baseline_runs, result.rounds) == (5, 3, 3)
    assert result.throughput == 1000
    assert result.baseline_throughput == 250
    assert result.ours_spread == 1  # quartiles 1 and 2 around a median of 1


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(st.builds(Round, TIMES, TIMES), min_size=1, max_size=8), st.floats(0.1, 10))
def test_quartiles_are_ordered_and_a_slower_machine_changes_no_ratio(rounds, slow):
    result = result_of(rounds)
    assert result.ratio_low <= result.ratio <= result.ratio_high
    slower = result_of(
        [Round([t * slow for t in r.ours], [t * slow for t in r.baseline]) for r in rounds]
    )
    assert math.isclose(result.ratio, slower.ratio, rel_tol=1e-9)
    assert slower.ours_ms == pytest.approx(result.ours_ms * slow)


def test_json_has_the_documented_keys():
    data = json.loads(json.dumps(result_of([Round([1], [2])]).to_json()))
    assert data.keys() >= {
        "ours_ms",
        "baseline_ms",
        "ratio",
        "ratio_low",
        "ratio_high",
        "threads",
        "peak_rss_mb",
    }
    assert data["threads"] == 2
    assert data["peak_rss_mb"] == 10
