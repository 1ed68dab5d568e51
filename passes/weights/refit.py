"""Exact least squares on the weights that stay (spec: weights, "Exact refit").

The ridge pulls towards the trained weight, not towards zero: with A = H + λI the refitted row is
``V_S = A_SS⁻¹ A_S,: w``, which tends to the plain mask as λ grows. All rows with one support
share one factorisation, and the smaller of the two linear systems is solved: kept inputs
(A_SS) or dropped ones (through A⁻¹).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from sparsecc.formats.patterns import Mask
from sparsecc.passes.weights.scores import damped

Matrix = NDArray[np.float64]


def refit(weight: NDArray[np.floating], mask: Mask, h: Matrix, ridge: float) -> Matrix:
    """Least-squares values of ``weight[R, K]`` on ``mask[R, K]`` for ``h[K, K]``.

    Args:
        weight: The dense weight.
        mask: True where a weight stays.
        h: Mean of x xᵀ over the layer's inputs.
        ridge: λ relative to the mean of H's diagonal.

    Returns:
        The weights that minimise ``E‖(V − W)x‖² + λ‖V − W‖²`` over V on the support.
    """
    w = np.asarray(weight, np.float64)
    a, _ = damped(h, ridge)
    result = np.zeros(w.shape)
    inverse: Matrix | None = None
    for support, rows in _supports(mask):
        kept, dropped = np.flatnonzero(support), np.flatnonzero(~support)
        if len(kept) == 0:
            continue
        if len(dropped) == 0:
            result[rows] = w[rows]
        elif len(kept) <= len(dropped):
            factor = scipy.linalg.cho_factor(a[np.ix_(kept, kept)], lower=True, check_finite=False)
            pull = a[np.ix_(kept, dropped)] @ w[np.ix_(rows, dropped)].T
            change = scipy.linalg.cho_solve(factor, pull, check_finite=False)
            result[np.ix_(rows, kept)] = w[np.ix_(rows, kept)] + change.T
        else:
            if inverse is None:
                inverse = _inverse(a)
            factor = scipy.linalg.cho_factor(
                inverse[np.ix_(dropped, dropped)], lower=True, check_finite=False
            )
            pull = scipy.linalg.cho_solve(factor, w[np.ix_(rows, dropped)].T, check_finite=False)
            change = inverse[np.ix_(kept, dropped)] @ pull
            result[np.ix_(rows, kept)] = w[np.ix_(rows, kept)] - change.T
    return result


def _supports(mask: Mask) -> Iterator[tuple[Mask, NDArray[np.intp]]]:
    """Each distinct row of ``mask`` with the numbers of the rows that have it."""
    packed = np.packbits(mask, axis=1)
    _, first, which = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(which.reshape(-1), kind="stable")
    bounds = np.cumsum(np.bincount(which.reshape(-1)))[:-1]
    for row, rows in zip(first, np.split(order, bounds), strict=True):
        yield mask[row], rows


def _inverse(a: Matrix) -> Matrix:
    factor, _ = scipy.linalg.cho_factor(a, lower=True, check_finite=False)
    inverse, _ = scipy.linalg.lapack.dpotri(factor, lower=1)
    lower: Matrix = np.tril(inverse)
    return lower + np.tril(lower, -1).T
