"""Which neurons become one expert: clusters of equal size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sparsecc.search.mixtures import Grouping

Array = NDArray[np.float32]
Groups = NDArray[np.int64]
"""Neurons of each expert ``[experts, neurons of one]``."""
ROUNDS = 12
"""Of assignment and new centres; few neurons still move then."""
_SKETCH = 256
"""Features that activations of thousands of tokens are projected to."""


def group(
    kind: Grouping, experts: int, up: Array, active: NDArray[np.bool_], rng: np.random.Generator
) -> Groups:
    """Split neurons into experts.

    Args:
        kind: By rows of the weight, ``weights``, or by the tokens that they are active on,
            ``activations``: the graph whose edges are the cosines between these is cut, so that
            neurons that are active together stay together.
        experts: How many; they divide the neurons.
        up: The weight whose outputs are activated ``[neurons, features]``.
        active: Which neurons are active for which token ``[tokens, neurons]``.
        rng: Draws the first centres.
    """
    if kind == "weights":
        return balanced(_unit(up), experts, rng)
    signs = rng.choice(np.array([-1, 1], np.float32), (len(active), _SKETCH))
    sketch: Array = active.T.astype(np.float32) @ signs
    return balanced(_unit(sketch), experts, rng)


def balanced(points: Array, clusters: int, rng: np.random.Generator) -> Groups:
    """K-means on the sphere with clusters of one size.

    In every round points are assigned so that the sum of cosines is as large as equal sizes
    allow (an assignment problem), then centres are moved to the means.

    Args:
        points: Unit vectors ``[n, features]``.
        clusters: How many; they divide n.
        rng: Draws the first centres.

    Returns:
        Ascending numbers of the points of each cluster ``[clusters, n / clusters]``.
    """
    size = len(points) // clusters
    centres, before = points[_spread(points, clusters, rng)], None
    for _ in range(ROUNDS):
        near = np.repeat(points @ centres.T, size, axis=1)
        _, places = linear_sum_assignment(near, maximize=True)
        of = places // size
        if before is not None and np.array_equal(of, before):
            break
        before = of
        groups = np.argsort(of, kind="stable").reshape(clusters, size)
        centres = _unit(points[groups].sum(axis=1))
    return groups


def _spread(points: Array, clusters: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """First centres: each next one is likely to be far from those that are there (k-means++)."""
    chosen = [int(rng.integers(len(points)))]
    far = np.full(len(points), np.inf)
    while len(chosen) < clusters:
        far = np.minimum(far, np.clip(1 - points @ points[chosen[-1]], 0, None))
        total = far.sum()
        odds = far / total if total > 0 else None
        chosen.append(int(rng.choice(len(points), p=odds)))
    return np.array(chosen)


def _unit(rows: Array) -> Array:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Array = rows / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit
