"""Which layers share a line, and which reasons share a note."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsecc.report.lines import Note, lay_out


def test_a_short_model_has_a_line_per_layer(row, sparse_row):
    rows = [row("a"), sparse_row("b"), row("c", why="last layer")]
    lines, notes = lay_out(rows)
    assert [line.rows for line in lines] == [(each,) for each in rows]
    assert [line.note for line in lines] == [0, None, 1]
    assert notes == [Note("depthwise", 1), Note("last layer", 1)]


def test_a_long_model_draws_dense_layers_alike_together(row, sparse_row):
    rows = [each for i in range(20) for each in (row(f"dw{i}"), sparse_row(f"pw{i}"))]
    lines, notes = lay_out(rows)
    assert len(lines) == 21
    assert lines[0].first.name == "dw0"
    assert len(lines[0].rows) == 20
    assert lines[0].est_ms == pytest.approx(20 * 0.5)
    assert lines[0].macs == 20_000_000
    assert notes == [Note("depthwise", 20)]


def test_only_one_op_and_one_reason_are_alike(row):
    rows = [row(f"a{i}") for i in range(15)] + [row(f"b{i}", op="Gemm") for i in range(15)]
    lines, notes = lay_out(rows)
    assert [len(line.rows) for line in lines] == [15, 15]
    assert notes == [Note("depthwise", 30)]


def test_reasons_that_differ_in_numbers_share_a_note(row):
    rows = [row("a", why="sparse 0.3 ms, dense 0.2 ms"), row("b", why="sparse 7 ms, dense 5.1 ms")]
    assert lay_out(rows)[1] == [Note("such as: sparse 0.3 ms, dense 0.2 ms", 2)]


def test_density_is_weighted_by_work(row):
    rows = [row(f"a{i}", density=1.0, macs=1) for i in range(30)]
    rows.append(row("big", density=0.5, macs=30))
    assert lay_out(rows)[0][0].density == pytest.approx(0.75)


@settings(
    deadline=None,
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the fixtures are functions
)
@given(kinds=st.lists(st.tuples(st.booleans(), st.sampled_from("xyz")), max_size=60))
def test_every_layer_is_on_one_line(kinds, row, sparse_row):
    rows = [
        sparse_row(str(i)) if sparse else row(str(i), why=why)
        for i, (sparse, why) in enumerate(kinds)
    ]
    lines, notes = lay_out(rows)
    drawn = [each for line in lines for each in line.rows]
    assert sorted(each.name for each in drawn) == sorted(each.name for each in rows)
    assert sum(note.layers for note in notes) == sum(not each.is_sparse for each in rows)


def test_marks_go_past_z():
    marks = [Note.mark(i) for i in range(800)]
    assert marks[:2] == ["a", "b"]
    assert marks[25:28] == ["z", "aa", "ab"]
    assert len(set(marks)) == 800
