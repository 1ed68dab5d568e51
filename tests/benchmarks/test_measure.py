"""A real race on a tiny model; the peers are adapters that run in this interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import measure, run, spec
from benchmarks.measure import BASELINE, FLOAT, OURS, relative_error
from benchmarks.peers import Peer, Setting
from benchmarks.rows import Report

LAYERS = spec.parse(
    """
    input image 1x3x16x16
    conv stem 16 k=3 act=relu
    conv wide 64 act=relu
    mean pool
    linear head 12
    """
)
RIGHT = """
import onnxruntime as ort

def open_side(job, feeds):
    session = ort.InferenceSession(job["model"])
    factor, waste = job["settings"].get("factor", 1), job["settings"].get("waste", 1)
    def run():
        for _ in range(waste):
            result = session.run(None, feeds)
        return result
    return run, lambda result: {"output": factor * result[0]}

if __name__ == "__main__":
    import shutil, sys
    if sys.argv[3] != "{}":
        sys.exit("cannot convert this")
    shutil.copy(sys.argv[1], sys.argv[2])
"""
DYING = "import sys; sys.exit('no such instruction')"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> measure.Prepared:
    folder = tmp_path_factory.mktemp("benchmarks")
    return measure.prepare("tiny", "4x1:0.75", folder, lambda stage: None, LAYERS)


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """Makes a peer from an adapter's text and its settings."""
    monkeypatch.setattr(measure, "python_of", lambda peer, say: None)

    def make(text: str, *settings: Setting, **more: object) -> Peer:
        path: Path = tmp_path / "adapter.py"
        path.write_text(text)
        monkeypatch.setattr(Peer, "runtime", path)
        return Peer("peer", "Peer", ("peer==1.0",), settings or (SETTING,), **more)

    return make


SETTING = Setting("plain", (), {})


def race(prepared: measure.Prepared, *peers: Peer) -> dict[str, measure.Row]:
    found = measure.race(prepared, 1, peers, seconds=0.1, say=lambda stage: None)
    return {row.engine: row for row in found}


def test_everyone_takes_turns_and_answers_right(prepared, peer):
    rows = race(prepared, peer(RIGHT))
    assert list(rows) == [BASELINE, OURS, "peer"]
    assert not any(row.unavailable for row in rows.values())
    assert rows[BASELINE].ratio == 1
    assert len({row.rounds for row in rows.values()}) == 1
    for row in rows.values():
        assert 0 < row.least_ms <= row.ms
        assert row.ratio_low <= row.ratio <= row.ratio_high
        assert row.error < 1e-5
        assert 0.2 < row.cores < 1.6
        assert row.peak_rss_mb > 10
    assert rows[OURS].prepare_s > 0
    assert rows["peer"].setting == "plain"


def test_the_fastest_setting_is_measured(prepared, peer):
    slow, fast = Setting("slow", (), {"waste": 40}), Setting("fast", (), {})
    assert race(prepared, peer(RIGHT, slow, fast))["peer"].setting == "fast"
    assert race(prepared, peer(RIGHT, fast, slow))["peer"].setting == "fast"


def test_a_setting_for_other_zeros_is_not_tried(prepared, peer):
    row = race(prepared, peer(RIGHT, Setting("other", ("unstructured",), {})))["peer"]
    assert row.unavailable == "no setting suits these zeros"


def test_a_wrong_answer_is_no_figure(prepared, peer):
    wrong = Setting("wrong", (), {"factor": 1.01})
    rows = race(prepared, peer(RIGHT, wrong))
    assert rows["peer"].unavailable.startswith("wrong: wrong answer: off by 1.0e-02")
    assert rows["peer"].ms == 0
    assert rows[OURS].ms > 0
    assert race(prepared, peer(RIGHT, wrong, SETTING))["peer"].setting == "plain"


def test_a_peer_that_dies_stops_nobody(prepared, peer):
    rows = race(prepared, peer(DYING))
    assert "no such instruction" in rows["peer"].unavailable
    assert rows[OURS].ms > 0


def test_a_conversion_is_made_once_and_its_failure_told(prepared, peer, monkeypatch):
    import sys

    monkeypatch.setattr(measure, "python_of", lambda peer, say: Path(sys.executable))
    assert race(prepared, peer(RIGHT, converts=True))["peer"].ms > 0
    assert [path.name for path in (prepared.folder / "converted").iterdir()] == [
        f"{prepared.path.stem}.plain.peer-1.0"
    ]
    refused = Setting("odd", (), {"x": 1})
    why = race(prepared, peer(RIGHT, refused, converts=True))["peer"].unavailable
    assert why == "odd: the conversion failed with code 1: cannot convert this"


def test_a_model_that_does_not_compile_still_measures_the_others(prepared, peer):
    from dataclasses import replace

    rows = race(replace(prepared, failure="node 'x': no"), peer(RIGHT))
    assert rows[OURS].unavailable == "node 'x': no"
    assert rows["peer"].ms > 0


def test_an_int8_model_races_against_the_same_model_and_its_float32_one(tmp_path):
    ready = measure.prepare("tiny", "int8:4x4:0.5", tmp_path, lambda stage: None, LAYERS)
    assert ready.float_path != ready.path
    rows = race(ready)
    assert list(rows) == [BASELINE, OURS, FLOAT]
    assert not any(row.unavailable for row in rows.values())
    assert rows[OURS].error < 0.1
    assert rows[FLOAT].error > 0
    assert rows[FLOAT].size_mb > rows[BASELINE].size_mb


def test_a_grid_is_filled_and_not_measured_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(spec, "load", lambda name: LAYERS)
    grid = run.Grid(["tiny"], ["dense"], [1], [], 0.05, tmp_path / "work", keep=False)
    report, output = Report({}), tmp_path / "report.json"
    run.fill(report, grid, output)
    first = output.read_text()
    assert [row.engine for row in report.rows.values()] == [BASELINE, OURS]
    assert not grid.folder.exists()
    run.fill(report, grid, output)
    assert output.read_text() == first
    assert grid.missing(report, "tiny", "4x1:0.5") == [1]


def test_errors_are_relative_to_the_largest_value():
    assert relative_error(np.array([1.0, -4.2]), np.array([1.0, -4.0])) == pytest.approx(0.05)
    assert relative_error(np.ones(3), np.ones(4)) == np.inf
    assert not relative_error(np.array([np.nan]), np.ones(1)) < measure.TOLERANCE


def test_a_peer_sees_its_threads_and_none_of_our_python(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    variables = measure.environment(2)
    assert variables["OMP_NUM_THREADS"] == "2"
    assert "PYTHONPATH" not in variables
