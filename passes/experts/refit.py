"""The last weights of the experts that are left, fitted to what all experts gave on the data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.ops.moe import hidden
from sparsecc.passes.experts.find import Weights
from sparsecc.passes.experts.routing import Floats, Routed

SWEEPS = 2
"""Over all experts: one is fitted to what the others leave of the result."""
RIDGE = 0.1
"""By how much directions of the hidden features that are rare are held, of the mean direction."""


def refitted(activation: str, routed: Routed, weights: Weights, wanted: Floats) -> Weights:
    """The weights with other ``down``, near what they were, for a result near what is wanted.

    Args:
        activation: A name of ``ACTIVATIONS``.
        routed: What comes to the experts that are left, by their numbers.
        weights: Of these.
        wanted: What all experts gave the same tokens ``[T, d]``.
    """
    down = weights["down"].astype(np.float64)
    rest = (wanted - ops.mixture(activation, *routed, weights)).astype(np.float64)
    inputs = [_inputs(activation, routed, weights, e) for e in range(len(down))]
    for _ in range(SWEEPS):
        for e, (tokens, features) in enumerate(inputs):
            if len(tokens):
                step = _ridge(features, rest[tokens])
                rest[tokens] -= features @ step.T
                down[e] += step
    return weights | {"down": down.astype(np.float32)}


def _inputs(
    activation: str, routed: Routed, weights: Weights, e: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The tokens of an expert, and what ``down`` reads of each, times its gates."""
    gates = np.where(routed.experts == e, routed.gates, 0).sum(axis=1)
    tokens = np.flatnonzero(gates)
    own = {name: weight[e] for name, weight in weights.items()}
    made = hidden(activation, routed.tokens[tokens], own).astype(np.float64)
    return tokens, made * gates[tokens, None]


def _ridge(features: NDArray[np.float64], rest: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix ``[d, f]`` that takes features ``[t, f]`` to what is left ``[t, d]``, about."""
    tokens, count = features.shape
    wide = tokens < count  # then as many unknowns as tokens do
    gram = features @ features.T if wide else features.T @ features
    held = RIDGE * np.trace(gram) / len(gram) or 1.0
    gram[np.diag_indices(len(gram))] += held
    found = np.linalg.solve(gram, rest if wide else features.T @ rest).T
    return np.asarray(found @ features if wide else found)


__all__ = ["refitted"]
