"""How much each weight matters: the smallest go first.

``H = mean(x xᵀ)`` over the layer's calibration inputs, float64.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

DAMPING = 0.01


def magnitude(weight: NDArray[np.floating]) -> Matrix:
    """``w²`` for ``weight[R, K]``: ranks like ``|w|`` and adds up over blocks."""
    return np.square(np.asarray(weight, np.float64))


def wanda(weight: NDArray[np.floating], h: Matrix) -> Matrix:
    """Wanda's ``(|w_ij|·‖x_j‖)²`` for ``weight[R, K]`` and ``h[K, K]``; meant per row."""
    return magnitude(weight) * np.diag(h)


def damped(h: Matrix, damping: float = DAMPING) -> tuple[Matrix, NDArray[np.bool_]]:
    """Make ``h[K, K]`` safely positive definite.

    Inputs that are never active (``h_jj = 0``) get a unit diagonal; their weights can be zeroed
    freely. Then ``damping``·mean(diagonal) is added to the diagonal.

    Returns:
        The new matrix and the mask ``[K]`` of dead inputs.
    """
    dead = np.diag(h) == 0
    result = h.copy()
    diagonal = np.einsum("ii->i", result)
    level = float(diagonal[~dead].mean()) if not dead.all() else 1.0
    diagonal += damping * level
    diagonal[dead] = 1.0
    return result, dead


def inverse_cholesky(h: Matrix) -> Matrix:
    """Upper ``U`` with ``UᵀU = H⁻¹`` for positive definite ``h[K, K]``.

    With J the order reversal and ``JHJ = LLᵀ``, ``U = J L⁻¹ J``: one factorisation and one
    triangular inverse, no explicit ``H⁻¹``.
    """
    lower = scipy.linalg.cholesky(h[::-1, ::-1], lower=True, check_finite=False)
    inverse, info = scipy.linalg.lapack.dtrtri(lower, lower=1, overwrite_c=1)
    if info != 0:
        raise np.linalg.LinAlgError(f"singular factor (dtrtri: {info})")
    return np.ascontiguousarray(inverse[::-1, ::-1])
