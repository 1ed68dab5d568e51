"""The report: totals, JSON, and its drawing at several widths."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sparsecc.passes.base import Refusal
from sparsecc.report import Report
from sparsecc.report.terminal import density_bar, shorten

LONG = "/model/encoder/layer.{}/attention/self/query/MatMul"


@pytest.fixture
def report(row, sparse_row):
    rows = [row("stem", why="first layer")]
    rows += [sparse_row(LONG.format(i), op="SparseMatMul_add_gelu_tanh") for i in range(12)]
    rows += [row(f"dw{i}") for i in range(15)]
    rows.append(row("loop", op="Loop", shape=None, why="control flow", est_ms=0, dense_ms=0))
    return Report(
        rows,
        "x86-64-v4",
        title="model.onnx",
        refusals=[Refusal("fuse", "a", "two readers"), Refusal("fuse", "b", "two readers")],
        size_bytes=3_400_000,
        numerics={"max_rel_error": 1.25e-6},
        quality={"cosine": 0.95},
    )


def drawn(report: Report, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(report)
    return console.file.getvalue().splitlines()


def test_totals(report):
    assert report.dense_ms == pytest.approx(28 * 0.5)
    assert report.est_ms == pytest.approx(16 * 0.5 + 12 * 0.125)
    assert report.speedup == pytest.approx(14 / 9.5)
    assert Report([], "x86-64").speedup == 1


def test_json(report):
    data = json.loads(json.dumps(report.to_json()))
    assert len(data["layers"]) == len(report.rows)
    assert data["refusals"] == {"two readers": 2}
    assert data["quality"] == {"cosine": 0.95}
    assert data["size_bytes"] == 3_400_000
    assert data["target"] == "x86-64-v4"


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_a_drawing_keeps_to_its_width_and_tells_layers_apart(report, width):
    lines = drawn(report, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for i in range(12):
        assert f".{i}/" in text
    for said in ("first layer", "15×", "control flow", "1.47× faster", "3.4 MB", "two readers"):
        assert said in text


def test_wide_drawings_show_more(report):
    assert "conv_4x1" not in "\n".join(drawn(report, 80))
    wide = "\n".join(drawn(report, 140))
    assert "conv_4x1" in wide
    assert shorten("SparseMatMul_add_gelu_tanh", 18) in wide
    assert "1.0M" in wide


def test_text_has_no_escape_codes_and_no_blank_ends(report):
    text = str(report)
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert text.startswith("model.onnx · x86-64-v4 · 29 layers, 12 sparse")


def test_nothing_sparse_and_no_layers_at_all(row):
    assert "nothing runs sparse" in str(Report([row("a")], "x86-64"))
    assert str(Report([], "x86-64")).strip() == "x86-64 · 0 layers, 0 sparse"


@pytest.mark.parametrize(
    ("density", "bar"), [(0, "······"), (1, "██████"), (0.5, "███···"), (0.25, "█▌····")]
)
def test_density_bar(density, bar):
    assert density_bar(density) == bar


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.text("ab./_10é", min_size=1, max_size=60), st.integers(6, 70))
def test_a_shortened_name_fits(name, room):
    short = shorten(name, room)
    assert len(short) <= room
    assert short == name or len(name) > room


def test_shortening_keeps_numbers():
    assert shorten("features.10.conv.pointwise", 20) == "featu.10.conv.pointw"


def test_names_and_reasons_of_a_model_are_shown_not_obeyed(row, sparse_row):
    hostile = "[red]x[/nothing]\x1b[2J\nnext"
    rows = [sparse_row(hostile, op=hostile, kernel=hostile, pattern=hostile)]
    rows.append(row(hostile, why=hostile))
    refusals = [Refusal("fuse", hostile, hostile + "!")]
    text = str(Report(rows, "x86-64", title=hostile, refusals=refusals, quality={hostile: 1.0}))
    assert "\x1b" not in text
    assert "[red]x[/nothing]�[2J�next" in text
