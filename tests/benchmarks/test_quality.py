"""The table of zeros and methods: measured on a small model, resumed, and drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import onnx
import pytest

from benchmarks import plots
from benchmarks import quality as bench
from benchmarks.trained import Subject
from tests import small
from tests.benchmarks.test_plans import cosine, samples


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("model") / "mlp.onnx"
    onnx.save(small.mlp("n"), path)
    whole = Subject(
        title="MLP",
        measure="mean cosine",
        model=path,
        settings={"calibration": {"x": samples(0, 900)}, "labels": None, "quality": None},
        one={"x": samples(1, 8)},
        test={"x": samples(2, 100)},
        quality=cosine,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bench.SUBJECTS, "mlp", lambda: whole)
        yield "mlp"


def test_methods_are_judged_and_a_run_goes_on_where_it_stopped(model: str, tmp_path: Path) -> None:
    path = tmp_path / "quality.json"
    results = bench.Results.load(path)
    bench.fill(results, model, ["4x1:0.5"], ["magnitude", "Wanda", "+ refit"], 640, 0.2)
    bench.fill(bench.Results.load(path), model, ["4x1:0.7"], ["magnitude"], 640, 0.2)
    again = bench.Results.load(path)
    assert [(c.zeros, c.method) for c in again.cells] == [
        ("4x1:0.5", "magnitude"),
        ("4x1:0.5", "Wanda"),
        ("4x1:0.5", "+ refit"),
        ("4x1:0.7", "magnitude"),
    ]
    assert [speed.zeros for speed in again.speeds] == ["4x1:0.5", "4x1:0.7"]
    first, wanda, refitted, more = again.cells
    assert wanda.quality < refitted.quality
    assert first.dense == pytest.approx(1)
    assert more.quality < first.quality < refitted.quality < 1
    bench.fill(again, model, ["4x1:0.5"], ["magnitude"], 640, 0.2)  # nothing left to do
    assert len(again.cells) == 4
    assert [point.zeros for point in bench.points(again)] == ["4x1:0.5"] * 3 + ["4x1:0.7"]


def test_permutation_and_recovery(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {**bench.METHODS["+ recovery"], "recover": "5 steps"}
    monkeypatch.setitem(bench.METHODS, "+ recovery", short)
    results = bench.Results.load(tmp_path / "quality.json")
    bench.fill(results, model, ["4x1:0.7"], ["+ refit", "+ permutation", "+ recovery"], 640, 0.2)
    refitted, permuted, recovered = results.cells
    assert permuted.quality > refitted.quality - 0.05
    assert recovered.quality > permuted.quality - 0.01  # the best held-out weights are kept


def test_calibrations_are_shortened_by_samples() -> None:
    batches = [{"x": samples(seed, 24)} for seed in range(5)]
    assert len(bench.shortened(batches, 50)) == 3
    assert bench.shortened(batches[0], 10)["x"].shape[0] == 10


def results() -> bench.Results:
    cell = bench.Cell("A", "cosine", "4x1:0.5", "ALPS", 0.9, 1.0, 3.0)
    return bench.Results(
        Path("none"),
        [
            cell,
            dataclasses.replace(cell, method="+ refit", quality=0.95),
            dataclasses.replace(cell, zeros="unstructured:0.5"),
        ],
        [bench.Speed("A", "4x1:0.5", (1.8, 1.7, 1.9), 2.0)],
    )


def test_the_table_has_a_line_for_zeros_and_a_column_for_methods() -> None:
    text = bench.section(results())
    assert "**A**: cosine; the dense model has 1.000." in text
    assert "| zeros | speed-up | ALPS | + refit |" in text
    assert "| 4x1:0.5 | 1.80 | 0.900 | **0.950** |" in text
    assert "| unstructured:0.5 | – | **0.900** | – |" in text
    assert [point.method for point in bench.points(results())] == ["ALPS", "+ refit"]


def points() -> list[plots.Point]:
    return [
        plots.Point("A", "ALPS", "4x1:0.5", 1.8, 0.1),
        plots.Point("A", "+ refit", "4x1:0.5", 1.8, 0.05),
        plots.Point("A", "+ refit", "unstructured:0.5", 1.4, 0.06),
        plots.Point("A", "+ refit", "4x1:0.3", 1.3, -0.001),
    ]


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    best = plots.frontier(points())
    assert [(point.zeros, point.lost) for point in best] == [("4x1:0.3", -0.001), ("4x1:0.5", 0.05)]
    for point in points():
        rivals = [other for other in points() if other is not point]
        beaten = [o for o in rivals if o.speed >= point.speed and o.lost <= point.lost]
        assert (point in best) != any(other != point for other in beaten)


def test_the_picture_is_the_same_bytes_for_the_same_points(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        plots.pareto(points(), tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    for said in ("<!-- A -->", "<!-- + refit -->", "<!-- 4x1 -->", "<!-- unstructured -->"):
        assert said in text
