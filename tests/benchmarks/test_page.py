from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import page
from benchmarks.rows import Row

TITLES = {"onnxruntime": "ONNX Runtime", "sparsecc": "sparsecc", "mnn": "MNN", "torch": "torch"}
BASE = Row(
    model="resnet50",
    pattern="4x1:0.8",
    threads=1,
    engine="onnxruntime",
    version="1.32",
    ms=32.0,
    ratio=1.0,
    cores=1.0,
)
OURS = replace(
    BASE, engine="sparsecc", version="0.1", ms=10.0, ratio=3.2, ratio_low=3.1, ratio_high=3.3
)
MNN = replace(BASE, engine="mnn", version="3.6.0", ms=16.0, ratio=2.0)
GONE = replace(BASE, engine="mnn", version="3.6.0", threads=2, unavailable="no wheel")
MACHINE = {"processor": "Zen", "cores": 2}


def test_content_stands_between_the_markers():
    text = "before\n<!-- x:begin -->\nold\n<!-- x:end -->\nafter\n"
    once = page.splice(text, "x", "new")
    assert once == "before\n<!-- x:begin -->\nnew\n<!-- x:end -->\nafter\n"
    assert page.splice(once, "x", "new") == once


@pytest.mark.parametrize("text", ["", "<!-- x:begin -->", "<!-- x:end -->\n<!-- x:begin -->"])
def test_a_page_without_markers_is_refused(text):
    with pytest.raises(ValueError, match="markers"):
        page.splice(text, "x", "new")


def test_the_fastest_is_bold_and_columns_match_the_header():
    text = page.table([BASE, OURS, MNN], 1, {key: TITLES[key] for key in ("onnxruntime", "mnn")})
    header, _, line = text.splitlines()
    assert (
        header == "| model | zeros | ONNX Runtime ms | sparsecc ms | sparsecc | quartiles | MNN |"
    )
    assert line == "| resnet50 | 4x1:0.8 | 32.00 | 10.00 | **3.20** | 3.10–3.30 | 2.00 |"
    faster = page.table([BASE, OURS, replace(MNN, ratio=4.0)], 1, TITLES).splitlines()[2]
    assert "| 3.20 | 3.10–3.30 | **4.00** | – |" in faster


def test_a_table_per_number_of_threads_and_a_reason_for_each_gap():
    rows = [BASE, OURS, MNN, replace(BASE, threads=2), GONE]
    text = page.section(rows, TITLES, MACHINE)
    assert "1 thread:\n" in text
    assert "2 threads:\n" in text
    assert "| resnet50 | 4x1:0.8 | 32.00 | – | – | – | – |" in text
    assert "- MNN not available: no wheel (resnet50 4x1:0.8 2 threads)" in text
    assert "torch" not in text  # it was not asked for


def test_the_same_reason_is_told_once():
    rows = [replace(GONE, model=name) for name in ("a", "b", "c", "d", "e")]
    assert page.missing(rows, TITLES) == (
        "- MNN not available: no wheel "
        "(a 4x1:0.8 2 threads, b 4x1:0.8 2 threads, c 4x1:0.8 2 threads and 2 more)"
    )


def test_an_engine_that_takes_more_threads_than_it_may_is_named():
    assert page.missing([replace(MNN, cores=1.1)], TITLES) == ""
    assert "more cores" in page.missing([replace(MNN, cores=1.9)], TITLES)
