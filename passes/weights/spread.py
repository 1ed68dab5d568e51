"""Spreading a requested sparsity over layers by what calibration data say of them.

Both ways keep as many weights in all as the same share of every layer would: so allocations can be
compared, and none of them depends on a machine. (Who wants the least loss in a given time asks for
a budget of time, which searches for it.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.executor import Executor
from sparsecc.formats.patterns import SparsitySpec
from sparsecc.passes.weights import scores
from sparsecc.passes.weights.candidates import measure_layers
from sparsecc.passes.weights.layers import Layer, matrix
from sparsecc.passes.weights.prune import with_statistics
from sparsecc.passes.weights.sensitivity import sensitivities
from sparsecc.progress import Progress, counted, part
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.exam import set_exam
from sparsecc.quality.moments import Moments
from sparsecc.search.allocation import LEAST_KEPT, owl, scaled
from sparsecc.search.knapsack import cheapest
from sparsecc.search.plan import Choice

OUTLIER = 5.0
"""A Wanda score so many times their mean is an outlier."""
MEASURED_AT = (LEAST_KEPT, 0.45, 0.7, 1.0, 1.3, 1.7, 2.2)
"""Densities that losses are measured at, over the density asked for."""
_MOST_LOST, _TINY = 0.999, 1e-12
STEPS = 64
"""Densities of a layer that the knapsack chooses from, besides those that were measured."""

Curve = tuple[Sequence[float], Sequence[float]]
"""Densities, rising to 1, and the losses there."""


def by_outliers(
    graph: ir.Model,
    layers: Sequence[Layer],
    spec: SparsitySpec,
    data: Calibration,
    progress: Progress,
) -> dict[str, float]:
    """Layer name → density by OWL: layers with more outliers among their weights keep more.

    Args:
        graph: The dense model; it is not changed.
        layers: Its layers that share out the sparsity.
        spec: How much.
        data: Calibration data.
        progress: Told what is being done.
    """
    shares = {}
    for together, train, _ in with_statistics(graph, layers, data, counted(progress)):
        shares.update({layer.name: outlier_share(matrix(layer), train) for layer in together})
    sizes = [layer.rows * layer.cols for layer in layers]
    kept = owl([shares[layer.name] for layer in layers], sizes, 1 - spec.sparsity)
    return dict(zip((layer.name for layer in layers), kept, strict=True))


def by_losses(
    graph: ir.Model,
    layers: Sequence[Layer],
    spec: SparsitySpec,
    data: Calibration,
    executor: Executor,
    progress: Progress,
) -> dict[str, float]:
    """Layer name → density by SPDY's knapsack: the least sum of what layers cost the model.

    What a layer costs follows from its loss at a density, as measured with SparseGPT, and from how
    much the model minds an error of the layer (:func:`model_costs`).

    Args:
        graph: The dense model; it is not changed.
        layers: Its layers that share out the sparsity.
        spec: How much, and in which pattern.
        data: Calibration data.
        executor: Where layers are worked on.
        progress: Told what is being done.
    """
    assert spec.pattern is not None
    density = 1 - spec.sparsity
    points = sorted({density * factor for factor in MEASURED_AT if density * factor < 1})
    tried = [Choice(pattern=spec.pattern, sparsity=1 - point) for point in points]
    choices = {layer.name: tried for layer in layers}
    losses, probes = measure_layers(graph, choices, data, executor, part(progress, 0.0, 0.8))
    exam = set_exam(session_of_model(graph), data.held_out or data.train, "relative-error")
    sense = sensitivities(graph, probes, exam, part(progress, 0.8, 1.0))
    curves: Mapping[str, Curve] = {
        name: ([*points, 1.0], model_costs([*measured, 0.0], probes[name].loss, sense[name]))
        for name, measured in losses.items()
    }
    sizes = [layer.rows * layer.cols for layer in layers]
    kept = least_cost([curves[layer.name] for layer in layers], sizes, density)
    return dict(zip((layer.name for layer in layers), kept, strict=True))


def model_costs(losses: Sequence[float], probe: float, sense: float) -> list[float]:
    """What a layer's losses cost the model, in a unit that adds up over layers.

    Layers in a row hand on a share of the signal each, so it is −log(1 − loss) that adds up; small
    losses are such costs themselves.

    Args:
        losses: Relative output errors of the layer.
        probe: One of them that was tried in the whole model.
        sense: Relative error of the model's outputs then, over ``probe``.
    """
    lost = [-math.log1p(-min(loss, _MOST_LOST)) for loss in (*losses, probe, sense * probe)]
    *costs, of_layer, of_model = lost
    factor = of_model / max(of_layer, _TINY)
    return [factor * cost for cost in costs]


def outlier_share(weight: NDArray[np.floating], train: Moments) -> float:
    """Share of the Wanda scores of ``weight[R, K]`` above ``OUTLIER`` times their mean."""
    parts = zip(np.split(weight, len(train.h)), train.h, strict=True)
    score = np.sqrt(np.concatenate([scores.wanda(each, h) for each, h in parts]))
    return float(np.mean(score > OUTLIER * score.mean()))


def least_cost(curves: Sequence[Curve], sizes: Sequence[int], density: float) -> list[float]:
    """Densities of the least total cost that keep ``density`` of all weights.

    Args:
        curves: Cost of each layer over its density; interpolated between what was measured.
        sizes: Weights of each layer.
        density: Weights to keep, over all of them; at least the least density of every curve.

    Returns:
        A density for each layer, their mean weighted by size ``density``.
    """
    grids = [grid(curve) for curve in curves]
    kept = [size * densities for size, (densities, _) in zip(sizes, grids, strict=True)]
    budget = density * sum(sizes)
    picks = cheapest([costs for _, costs in grids], kept, budget)
    assert picks is not None, "the least densities exceed the one asked for"
    chosen = [float(densities[pick]) for (densities, _), pick in zip(grids, picks, strict=True)]
    return scaled(chosen, sizes, density)  # what rounding to steps left over


def grid(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Densities of a layer to choose from, rising, and what they cost, falling."""
    from scipy.interpolate import PchipInterpolator  # long to import, and few ask for it

    measured, costs = np.asarray(curve[0]), _falling(curve[1])
    steps = np.linspace(measured[0], 1.0, STEPS)
    densities = np.unique(np.concatenate([measured, steps]))
    return densities, np.maximum(PchipInterpolator(measured, costs)(densities), 0.0)


def _falling(costs: ArrayLike) -> NDArray[np.float64]:
    """Costs over rising densities with what is only noise between them taken out."""
    worst: NDArray[np.float64] = np.maximum.accumulate(np.asarray(costs, np.float64)[::-1])[::-1]
    return worst


__all__ = ["by_losses", "by_outliers", "grid", "least_cost", "model_costs", "outlier_share"]
