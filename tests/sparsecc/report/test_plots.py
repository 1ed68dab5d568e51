"""Where plots put things, checked against what they are drawn from."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.report.document import document
from sparsecc.report.plots import heatmap, pareto, roofline
from sparsecc.report.plots.axes import Axis, round_step
from sparsecc.search.plan import PlanPoint
from tests.sparsecc.report.searched import searched

VALUES = st.floats(1e-6, 1e6)


@pytest.fixture(scope="module")
def made(pruned_mlp):
    return document(searched(pruned_mlp.report))


@given(st.floats(1e-9, 1e9))
def test_steps_are_round_and_few(span):
    step = round_step(span)
    digit = step / 10.0 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(digit - wanted) for wanted in (1, 2, 5, 10)) < 1e-6
    assert 1.9 < span / step < 5.001


@given(low=VALUES, factor=st.floats(1.1, 1e4), log=st.booleans())
def test_ticks_lie_on_the_axis_in_order(low, factor, log):
    axis = Axis(low, low * factor, 0, 1000, log=log)
    ticks = axis.ticks()
    assert all(low * (1 - 1e-6) <= tick <= low * factor * (1 + 1e-6) for tick in ticks)
    places = [axis(tick) for tick in ticks]
    assert places == sorted(places)
    assert axis(low) == 0
    assert axis(low * factor) == 1000
    assert axis(low * factor * 2) == 1000
    assert axis(0.0 if log else -1.0) == 0


def test_decades_have_equal_lengths():
    axis = Axis(0.1, 1000, 0, 400, log=True)
    assert [axis(tick) for tick in axis.ticks()] == [0, 100, 200, 300, 400]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(pairs):
    points = [
        PlanPoint(name=str(at), predicted_ms=float(x), drop=float(y))
        for at, (x, y) in enumerate(pairs)
    ]
    best = {(point.predicted_ms, point.drop) for point in pareto.front(points)}
    beaten = {
        (a.predicted_ms, a.drop)
        for a in points
        if any(
            (b.predicted_ms, b.drop) != (a.predicted_ms, a.drop)
            and b.predicted_ms <= a.predicted_ms
            and b.drop <= a.drop
            for b in points
        )
    }
    assert best == {(point.predicted_ms, point.drop) for point in points} - beaten


def test_the_chosen_plan_is_marked_once_and_lies_on_top(made):
    plot = pareto.pareto(made)
    assert [dot.kind for dot in plot.dots].count("chosen") == 1
    assert plot.dots[-1].kind == "chosen"
    assert "(chosen)" in plot.dots[-1].tip
    assert plot.dots[-1].y > plot.limit_y  # below the line in the drawing: within the budget
    assert [dot.kind for dot in plot.dots].count("dense") == 1
    assert pareto.pareto(dataclasses.replace(made, points=())) is None


@pytest.mark.parametrize("kind", ["ms", "bytes"])
def test_other_budgets(made, kind):
    budget = made.budget.model_copy(update={"kind": kind, "limit": 0.03})
    plot = pareto.pareto(dataclasses.replace(made, budget=budget))
    assert plot.limit_y is None
    assert (plot.limit_x is not None) == (kind == "ms")


def test_plans_far_beyond_the_budget_do_not_flatten_the_rest(made):
    wild = PlanPoint(name="wild", predicted_ms=0.001, drop=0.9)
    points = (wild, *made.points)
    plot = pareto.pareto(dataclasses.replace(made, points=points))
    assert plot.y.high < 0.05
    assert plot.beyond == 1
    dot = next(dot for dot in plot.dots if dot.tip.startswith("wild"))
    assert dot.y == pareto.TOP
    assert f"{dot.x}," not in plot.front
    free = pareto.pareto(dataclasses.replace(made, points=points, budget=None))
    assert free.beyond == 0


def test_one_lone_point_is_drawn(made):
    dense = PlanPoint(name="dense", predicted_ms=0.0, drop=0.0, chosen=True)
    plot = pareto.pareto(dataclasses.replace(made, points=(dense,), budget=None))
    assert len(plot.dots) == 1


def test_darker_is_worse_and_options_are_in_order(made):
    plot = heatmap.heatmap(made)
    labels = [row.label for row in plot.rows]
    assert labels[:2] == ["dense", "unstructured:0.5"] or labels[0] == "dense"
    assert labels.index("4x1:0.5") < labels.index("4x1:0.9") < labels.index("16x1:0.5")
    for column in range(len(made.layers)):
        levels = [row.cells[column].level for row in plot.rows if row.label.startswith("4x1")]
        assert levels == sorted(levels)
        assert sum(row.cells[column].chosen for row in plot.rows) == 1


def test_structures_have_rows_of_their_own_by_their_sizes(made):
    layer = made.layers[0]
    texts = ["rank:128", "rank:24 + 4x1:0.8", "rank:24", "monarch:8x8:2", "4x1:0.8", "dense"]
    options = tuple(dataclasses.replace(layer.options[0], choice=text) for text in texts)
    changed = (dataclasses.replace(layer, options=options),)
    plot = heatmap.heatmap(dataclasses.replace(made, layers=changed))
    labels = [row.label for row in plot.rows]
    assert labels[0] == "dense"
    assert [label for label in labels if label.startswith("rank")] == [
        "rank:24",
        "rank:24 + 4x1:0.8",
        "rank:128",
    ]
    assert sorted(labels) == sorted(texts)


@given(st.floats(1e-6, 1), st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_shades_grow_with_losses(a, b, c):
    least, middle, most = sorted((a, b, c))
    shades = [heatmap.shade(loss, least, most) for loss in (0.0, least, middle, most)]
    assert shades == sorted(shades)
    assert shades[0] == 0
    assert shades[-1] == (heatmap.LEVELS - 1 if most > least else 0)


def test_no_layer_is_above_the_peak_and_dots_are_where_the_figures_say(made):
    plot = roofline.roofline(made)
    assert len(plot.dots) == len(made.layers)
    for layer in made.layers:
        assert roofline.gflops(layer) <= made.target.peak_gflops
        x = plot.x(layer.row.flops / layer.row.moved_bytes)
        y = plot.y(layer.row.flops / layer.row.est_ms / 1e6)
        assert (x, y) in {(dot.x, dot.y) for dot in plot.dots}
    for roof in plot.roofs:
        x, y = (float(number) for number in roof.points.split()[-1].split(","))
        assert y == plot.peak_y
        assert plot.x.start <= x <= plot.x.stop
    assert roofline.roofline(dataclasses.replace(made, target=None)) is None


def test_a_bandwidth_that_limits_nothing_is_not_drawn(made):
    layers = [
        dataclasses.replace(
            layer, row=dataclasses.replace(layer.row, moved_bytes=int(layer.row.flops / 20))
        )
        for layer in made.layers
    ]
    plot = roofline.roofline(dataclasses.replace(made, layers=tuple(layers)))
    assert plot.x.low == 1
    assert all(-90 < roof.angle < 0 for roof in plot.roofs)
    assert [roof.label.partition(",")[0] for roof in plot.roofs] == ["L2", "L3", "memory"]
