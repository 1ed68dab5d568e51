"""Whole models with candidates in their layers: as measured, or adapted to each other."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from threadpoolctl import threadpool_limits

from sparsecc.passes.weights.bias_correction import can_shift, shift_bias
from sparsecc.passes.weights.candidates import Candidate, measure
from sparsecc.passes.weights.layers import Layer, find_layers, matrix, set_matrix
from sparsecc.passes.weights.prune import with_statistics
from sparsecc.quality.calibration import Calibration

SCORE_BATCHES = 8
"""Training batches that a plan is scored with."""


def stitched(graph: ir.Model, candidates: Mapping[str, Candidate]) -> ir.Model:
    """A copy of the model with the candidates' weights, by layer name."""
    model = graph.clone()
    layers = {layer.name: layer for layer in find_layers(model).layers}
    for name, candidate in candidates.items():
        _put(layers[name], candidate)
    return model


def quickly_pruned(
    graph: ir.Model, candidates: Mapping[str, Candidate], data: Calibration
) -> ir.Model:
    """A copy of the model with layers pruned as candidates say, one after the other.

    Each layer makes up for what those before it changed, as in a plan that is carried out; but
    with quick masks, on a few batches. Weights that were measured alone say much worse of a model
    in which many layers change.
    """
    model = graph.clone()
    layers = find_layers(model).layers
    todo = [layer for layer in layers if candidates[layer.name].weight is not None]
    few = Calibration(data.train[:SCORE_BATCHES], ())
    with threadpool_limits(1, "blas"):
        for layer, train, _ in with_statistics(model, todo, few, None):
            assert train is not None
            may_shift = can_shift(layer)
            asked = [candidates[layer.name]]
            (made,) = measure(matrix(layer), asked, train, None, may_shift=may_shift)
            _put(layer, made)
    return model


def _put(layer: Layer, made: Candidate) -> None:
    assert made.weight is not None
    set_matrix(layer, made.weight)
    if made.shift is not None:
        shift_bias(layer, made.shift)


__all__ = ["quickly_pruned", "stitched"]
