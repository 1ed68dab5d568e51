"""OWL and SPDY allocations: against hand-made numbers, brute force, and the uniform one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from sparsecc.capture import capture
from sparsecc.executor import SERIAL
from sparsecc.formats.patterns import SparsitySpec
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights.layers import find_layers, matrix, set_matrix
from sparsecc.passes.weights.prune import prune_model
from sparsecc.passes.weights.spread import (
    by_losses,
    by_outliers,
    grid,
    least_cost,
    model_costs,
    outlier_share,
)
from sparsecc.progress import silent
from sparsecc.quality.calibration import load_calibration
from sparsecc.quality.moments import Moments
from sparsecc.search.allocation import allocate, to_spread
from sparsecc.search.knapsack import BUCKETS
from tests import small

SPEC = SparsitySpec.parse("4x1:0.7")


def test_outliers_are_counted_by_wandas_score() -> None:
    weight = np.full((2, 10), 0.1)
    weight[0, 0] = 1.0  # 1 against a mean of .145: an outlier
    flat = Moments(np.eye(10)[None], np.zeros((1, 10)), 10)
    assert outlier_share(weight, flat) == 1 / 20
    quiet = Moments(np.diag([0.01] + [1.0] * 9)[None], np.zeros((1, 10)), 10)
    assert outlier_share(weight, quiet) == 0  # the same weight on an input a tenth as large
    halves = Moments(np.stack([np.eye(10), 100 * np.eye(10)]), np.zeros((2, 10)), 10)
    scores = np.concatenate([weight[:1], 10 * weight[1:]])
    expected = np.mean(scores > 5 * scores.mean())
    assert outlier_share(weight, halves) == expected


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 3), st.floats(0.2, 0.9))
def test_least_cost_equals_brute_force(seed: int, layers: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 50, layers)
    points = sorted({density / 4, density / 2, density, min(1.0, 1.5 * density), 1.0})
    curves = []
    for _ in range(layers):
        falling = np.sort(rng.exponential(1, len(points)))[::-1]
        curves.append((points, [*(falling[:-1] - falling[-1]).tolist(), 0.0]))
    kept = least_cost(curves, sizes.tolist(), density)
    assert np.average(kept, weights=sizes) == pytest.approx(density)

    costs, weights = np.zeros(()), np.zeros(())
    for size, curve in zip(sizes, curves, strict=True):
        densities, prices = grid(curve)
        costs = costs[..., None] + prices
        weights = weights[..., None] + size * densities
    slack = (density - points[0]) * sizes.sum()
    within = weights <= density * sizes.sum() - slack * (layers + 1) / BUCKETS
    found = sum(PchipInterpolator(*curve)(one) for one, curve in zip(kept, curves, strict=True))
    assert found <= costs[within].min() + 1e-9


def test_least_cost_finds_the_optimum_of_smooth_costs() -> None:
    """For costs a/density − a the marginal cost a/(density²·size) is the same in every layer."""
    sizes, scale, density = [100, 400, 50], np.array([1.0, 3.0, 0.5]), 0.3
    points = np.linspace(0.05, 1, 40)
    curves = [(points.tolist(), (a / points - a).tolist()) for a in scale]
    kept = np.array(least_cost(curves, sizes, density))
    ideal = np.sqrt(scale / sizes)
    ideal *= density * sum(sizes) / (ideal @ sizes)
    best = float(np.sum(scale / ideal - scale))
    assert best < float(np.sum(scale / density - scale)) * 0.995
    assert float(np.sum(scale / kept - scale)) == pytest.approx(best, rel=2e-3)


def test_losses_that_rise_with_density_by_chance_do_no_harm() -> None:
    curve = ([0.1, 0.2, 0.4, 1.0], [1.0, 0.2, 0.21, 0.0])
    kept = least_cost([curve, curve], [10, 10], 0.3)
    assert np.mean(kept) == pytest.approx(0.3)
    assert np.isfinite(kept).all()


def test_costs_of_layers_add_up_as_signals_are_handed_on() -> None:
    assert model_costs([0.0, 0.5], 0.5, 1.0) == pytest.approx([0.0, math.log(2)])
    small_ones = model_costs([1e-6, 3e-6], 1e-6, 2.0)
    assert small_ones == pytest.approx([2e-6, 6e-6], rel=1e-4)
    assert np.isfinite(model_costs([0.0, 1.5], 0.0, 3.0)).all()


def canonical(varying: int):
    """The model, its layers to spread over and data; so many of the model's inputs vary much."""
    graph = capture(small.mlp("n"))
    run(pipeline.EXACT_BEFORE, graph, Context())
    scale = np.where(np.arange(small.WIDTH) < varying, 1.0, 0.05).astype(np.float32)
    data = load_calibration({"x": small.tokens(0, 2000) * scale}, graph)
    return graph, to_spread(find_layers(graph).layers, SPEC), data


def output_error(densities, graph, data) -> float:
    """Of the whole model pruned to some densities, on its held-out data."""
    from sparsecc.backends.onnxruntime.run import session_of_model
    from sparsecc.quality.exam import set_exam

    model = graph.clone()
    layers = find_layers(model).layers
    decisions = allocate(layers, SPEC, densities=densities, refit=False)
    prune_model(model, {name: each.choice for name, each in decisions.items()}, data)
    exam = set_exam(session_of_model(graph), data.held_out, "relative-error")
    return exam.grade(session_of_model(model)).distance


def test_spdy_keeps_the_total_and_beats_uniform() -> None:
    graph, layers, data = canonical(
        32
    )  # few of 256: the first layer minds losing the others little
    kept = by_losses(graph, layers, SPEC, data, SERIAL, silent)
    assert list(kept) == [layer.name for layer in layers]
    sizes = [layer.rows * layer.cols for layer in layers]
    assert np.average(list(kept.values()), weights=sizes) == pytest.approx(0.3)
    assert kept["fc1"] < kept["fc2"]
    assert output_error(kept, graph, data) < 0.9 * output_error({}, graph, data)


def test_owl_keeps_the_total_and_follows_the_outliers() -> None:
    graph, layers, data = canonical(small.WIDTH)
    chosen = layers[-1]
    weight = matrix(chosen).copy()
    weight.reshape(-1)[:: weight.size // 40] *= 40
    set_matrix(chosen, weight)
    kept = by_outliers(graph, layers, SPEC, data, silent)
    sizes = [layer.rows * layer.cols for layer in layers]
    assert np.average(list(kept.values()), weights=sizes) == pytest.approx(0.3)
    assert max(kept, key=kept.__getitem__) == chosen.name
