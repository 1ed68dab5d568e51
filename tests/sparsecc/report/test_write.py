"""Files that a report is written to."""

import json

import pytest

from sparsecc.errors import ReportError


def test_the_suffix_says_in_which_form(pruned_mlp, tmp_path):
    page, notes, data = (
        pruned_mlp.report.save(tmp_path / f"r{suffix}") for suffix in (".html", ".md", ".JSON")
    )
    assert page.read_text().startswith("<!doctype html>")
    assert notes.read_text().startswith("# ")
    assert json.loads(data.read_text())["format"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.JSON", "r.html", "r.md"]


def test_an_older_report_is_replaced(pruned_mlp, tmp_path):
    path = tmp_path / "r.md"
    path.write_text("old")
    pruned_mlp.report.save(path)
    assert "old" not in path.read_text()


@pytest.mark.parametrize("name", ["report", "report.pdf", "missing/report.html"])
def test_places_that_are_refused(pruned_mlp, tmp_path, name):
    with pytest.raises(ReportError) as caught:
        pruned_mlp.report.save(tmp_path / name)
    assert "fix:" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_is_left_whole(pruned_mlp, saved_mlp):
    with pytest.raises(ReportError, match="is an artifact"):
        pruned_mlp.report.save(saved_mlp / "report.html")


def test_a_folder_in_the_way(pruned_mlp, tmp_path):
    (tmp_path / "r.html").mkdir()
    with pytest.raises(ReportError, match="cannot write"):
        pruned_mlp.report.save(tmp_path / "r.html")


def test_the_artifact_holds_its_page(pruned_mlp, saved_mlp):
    page = (saved_mlp / "report.html").read_text()
    assert "fc1" in page
    assert "report.html" in pruned_mlp.manifest.files
    assert str(saved_mlp) not in page
