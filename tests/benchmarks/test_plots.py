from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from benchmarks import plots
from benchmarks.rows import Row

pytest.importorskip("matplotlib")
TITLES = {"onnxruntime": "ONNX Runtime", "sparsecc": "sparsecc", "mnn": "MNN", "torch": "torch"}
ROW = Row(
    model="resnet50",
    pattern="4x1:0.8",
    threads=1,
    engine="sparsecc",
    version="0.1",
    ms=10.0,
    ratio=3.2,
)
ROWS = [
    replace(ROW, engine=engine, pattern=pattern, threads=threads)
    for engine in ("onnxruntime", "sparsecc", "mnn")
    for pattern in ("4x1:0.8", "4x1:0.9", "unstructured:0.9")
    for threads in (1, 2)
]


def test_the_same_rows_give_the_same_picture(tmp_path):
    for name in ("a.svg", "b.svg"):
        plots.models(ROWS, TITLES, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "<!-- resnet50, 2 threads -->" in text
    assert "<!-- MNN -->" in text
    assert "<!-- torch -->" not in text  # no row of it


def test_an_engine_without_figures_leaves_no_line(tmp_path):
    rows = [replace(row, unavailable="no") if row.engine == "mnn" else row for row in ROWS]
    plots.models(rows, TITLES, tmp_path / "a.svg")
    assert "<!-- MNN -->" not in (tmp_path / "a.svg").read_text()


def test_engines_keep_their_colors_when_others_are_missing():
    styles = plots.engine_styles(TITLES)
    assert list(styles) == ["sparsecc", "mnn", "torch"]
    assert len({style["color"] for style in styles.values()}) == 3


def test_the_roofline_has_its_roofs(tmp_path):
    points = {"4x1:0.8": [(10.0, 80.0), (20.0, 90.0)], "unstructured:0.9": [(0.5, 5.0)]}
    plots.roofline(points, 115.0, {"L2": 110.0, "DRAM": 30.0}, tmp_path / "roof.svg")
    text = (tmp_path / "roof.svg").read_text()
    for label in ("peak, 115 GFLOP/s", "DRAM, 30 GB/s", "4x1:0.8"):
        assert f"<!-- {label} -->" in text
