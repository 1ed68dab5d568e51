"""What a layer's loss costs the whole model: one coefficient per layer, from plans measured so far.

Losses of layers add up only roughly to what a model loses, and not every layer matters the same.
The distance of a plan is taken for the sum over the layers of coefficient × loss, which the
knapsack can minimise; each measured plan corrects the coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsecc.search.problem import Numbers, Problem
from sparsecc.search.scored import Scored

RIDGE = 0.01
"""Variance of what the sum cannot explain (.05² of a distance) over that of coefficients (.5²)."""
_LEAST = 0.1
"""A coefficient stays above this share of the common one, also where noise says less."""
_FAR = 0.02
"""Least weight of a plan, however far its distance is from what is asked for."""


def base_losses(problem: Problem) -> list[Numbers]:
    """Losses of every layer; where they were not measured, SPDY's stand-in.

    That is (i/(n−1))² for the i-th of n choices, ordered from the most bytes to the fewest.
    """
    return [
        _stand_in(sizes) if np.isnan(losses).any() else losses
        for losses, sizes in zip(problem.losses, problem.sizes, strict=True)
    ]


def fit(losses: Sequence[Numbers], plans: Sequence[Scored], near: float) -> Numbers:
    """Coefficients ``[layers]`` such that Σ coefficient · loss is about the measured distance.

    One common scale, then a ridge regression for how layers differ from it, on relative errors.
    Plans whose distance is close to what is asked for count most, since far from it (where a model
    fails altogether, say) another law holds.

    Args:
        losses: Per layer ``[choices]``, as of :func:`base_losses`.
        plans: What was measured; plans without any loss say nothing.
        near: The distance at which it should be right.

    Returns:
        At least 0; all 1 when the plans say nothing.
    """
    rows = [
        [float(loss[choice]) for loss, choice in zip(losses, plan.assignment, strict=True)]
        for plan in plans
        if np.isfinite(plan.distance)
    ]
    far = np.array([plan.distance for plan in plans if np.isfinite(plan.distance)])
    terms = np.array(rows).reshape(len(rows), len(losses))
    told = terms.sum(axis=1) > 0
    terms, far = terms[told], far[told]
    if not (far > 0).any():
        return np.ones(len(losses))
    total = terms.sum(axis=1)
    closeness = _closeness(far, near)
    scale = float(closeness @ (far / total) / closeness.sum())
    if scale <= 0:  # most plans gain; what the others lose is the careful guess
        scale = float((far / total)[far > 0].min())
    weight = np.sqrt(closeness) / (total + 0.3 * max(near, 0.0) / scale)
    scaled = terms * weight[:, None]
    missed = far * weight / scale - scaled.sum(axis=1)
    square = scaled.T @ scaled + RIDGE * np.eye(len(losses))
    relative = 1 + np.linalg.solve(square, scaled.T @ missed)
    fitted: Numbers = scale * np.maximum(relative, _LEAST)
    return fitted


def weighted(coefficients: Numbers, losses: Sequence[Numbers]) -> list[Numbers]:
    """Per layer ``[choices]``: coefficient × loss, a share of the model's drop."""
    return [c * loss for c, loss in zip(coefficients, losses, strict=True)]


def _closeness(far: Numbers, near: float) -> Numbers:
    if near <= 0:
        return np.ones(len(far))
    positive = np.maximum(far, near * _FAR)
    return np.maximum(np.minimum(positive / near, near / positive), _FAR)


def _stand_in(sizes: Numbers) -> Numbers:
    rank = np.empty(len(sizes))
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return (rank / max(len(sizes) - 1, 1)) ** 2
