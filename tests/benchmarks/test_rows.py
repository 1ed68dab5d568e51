from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import rows
from benchmarks.rows import Report, Row

MACHINE = {"processor": "a", "code": "b"}
ROW = Row(
    model="resnet50",
    pattern="4x1:0.8",
    threads=1,
    engine="mnn",
    version="3.6.0",
    ms=10.0,
    ratio=3.2,
)


def test_a_report_comes_back_from_its_file(tmp_path):
    path = tmp_path / "deep" / "report.json"
    report = Report(MACHINE)
    report.add([ROW, replace(ROW, threads=2, unavailable="no")])
    report.save(path)
    assert rows.resume(path, MACHINE) == report
    assert list(path.parent.iterdir()) == [path]


def test_another_machine_code_or_format_starts_afresh(tmp_path):
    path = tmp_path / "report.json"
    report = Report(MACHINE)
    report.add([ROW])
    report.save(path)
    assert rows.resume(path, MACHINE | {"code": "c"}).rows == {}
    path.write_text(path.read_text().replace(f'"format": {rows.FORMAT}', '"format": 1'))
    assert rows.resume(path, MACHINE).rows == {}
    assert rows.resume(tmp_path / "nowhere.json", MACHINE).rows == {}


@pytest.mark.parametrize(
    "change",
    [{"model": "x"}, {"pattern": "x"}, {"threads": 2}, {"engine": "x"}, {"version": "x"}],
)
def test_rows_are_told_apart_by_what_was_run(change):
    report = Report(MACHINE)
    report.add([ROW, replace(ROW, **change)])
    assert len(report.rows) == 2


def test_a_row_measured_again_takes_the_place_of_the_old_one():
    report = Report(MACHINE)
    report.add([ROW])
    report.add([replace(ROW, ms=5.0)])
    assert [row.ms for row in report.rows.values()] == [5.0]


def test_the_machine_is_described_without_a_date():
    described = rows.machine()
    assert described == rows.machine()
    assert described["processor"]
    assert described["versions"]["onnxruntime"]


def test_the_digest_follows_sources_behind_links_and_nothing_else(tmp_path):
    root, linked = tmp_path / "root", tmp_path / "linked"
    root.mkdir()
    linked.mkdir()
    (root / "link").symlink_to(linked)
    (linked / "kernel.c").write_text("int x;")
    before = rows.code_digest(root)
    (linked / "notes.txt").write_text("not code")
    assert rows.code_digest(root) == before
    Path(linked, "kernel.c").write_text("int y;")
    assert rows.code_digest(root) != before


def test_rows_are_shown_by_model_then_kind_of_zeros_then_share():
    shown = [
        ("resnet50", "dense"),
        ("resnet50", "4x1:0.8"),
        ("resnet50", "4x1:0.95"),
        ("resnet50", "int8:4x4:0.8"),
        ("resnet50", "unstructured:0.7"),
        ("bert_base", "4x1:0.9"),
    ]
    measured = [replace(ROW, model=model, pattern=pattern) for model, pattern in shown]
    mixed = [measured[i] for i in (4, 2, 0, 5, 3, 1)]
    assert rows.ordered(mixed) == measured
