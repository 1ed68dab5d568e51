"""Exact least squares on the weights that stay.

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
    supports = list(_supports(mask))
    inverse = None
    if any(2 * np.count_nonzero(support) > len(support) for support, _ in supports):
        inverse = _inverse(a)
    result = np.zeros(w.shape)
    for support, rows in supports:
        result[rows] = _fit_rows(w[rows], support, a, inverse)
    return result


def _fit_rows(w: Matrix, support: Mask, a: Matrix, inverse: Matrix | None) -> Matrix:
    """Refit rows ``w[r, K]`` that share one support, for ``a[K, K]`` and maybe its inverse."""
    kept, dropped = np.flatnonzero(support), np.flatnonzero(~support)
    fitted = np.where(support, w, 0.0)
    if len(kept) == 0 or len(dropped) == 0:
        return fitted
    # Whole rows of the matrices are taken, since picking elements would cost more than solving.
    if len(kept) <= len(dropped):
        rows = a.take(kept, 0)
        fitted[:, kept] += _solve(rows.take(kept, 1), rows @ (w - fitted).T).T
    else:
        assert inverse is not None
        rows = inverse.take(dropped, 0)
        pull = _solve(rows.take(dropped, 1), w[:, dropped].T)
        fitted -= pull.T @ rows
        fitted[:, dropped] = 0.0
    return fitted


def _solve(a: Matrix, right: Matrix) -> Matrix:
    _, solved, info = scipy.linalg.lapack.dposv(a, right, lower=1, overwrite_a=1)
    if info != 0:
        raise np.linalg.LinAlgError(f"not positive definite (dposv: {info})")
    found: Matrix = solved
    return found


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
