"""ALPS: better masks than one sweep of SparseGPT finds, by ADMM on the layer's quadratic loss.

Source: Meng et al. 2024 (ALPS). B minimises the loss, D is B's projection onto the pattern, and a
growing penalty ρ pulls the two together until the mask rests.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from sparsecc.formats.patterns import Mask, Pattern, mask_from_scores
from sparsecc.passes.weights.scores import DAMPING, damped

ITERATIONS = 300
_FIRST_RHO = 0.1
_CHECK_EVERY = 3
_GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
"""Share of the kept weights that changed since the last check, at least → factor on ρ."""


def alps(
    weight: NDArray[np.floating],
    h: NDArray[np.float64],
    pattern: Pattern,
    sparsity: float,
    *,
    damping: float = DAMPING,
) -> Mask:
    """Mask ``[R, K]`` for ``weight[R, K]`` and inputs with second moment ``h[K, K]``.

    Costs one eigendecomposition of H and some thirty times four products R·K².
    """
    h, dead = damped(h, damping)
    scale = np.sqrt(np.diag(h))
    target = np.where(dead, 0.0, np.asarray(weight, np.float64)) * scale
    wide, basis = scipy.linalg.eigh(h / np.outer(scale, scale), check_finite=False)
    # Only a ranking comes out, so single precision will do from here on.
    eigenvalues, q, d = (each.astype(np.float32) for each in (wide, basis, target))
    # In the eigenbasis H = QΛQᵀ is diagonal, so (H + ρI)⁻¹ is a division.
    pull = (d @ q) * eigenvalues
    v, rho = np.zeros_like(d), np.float32(_FIRST_RHO)
    last = np.ones(target.shape, bool)
    for iteration in range(ITERATIONS):
        b = ((pull + (rho * d - v) @ q) / (eigenvalues + rho)) @ q.T
        goal = b + v / rho
        mask = mask_from_scores(np.square(goal), pattern, sparsity)
        d = np.where(mask, goal, np.float32(0))
        v += rho * (b - d)
        if iteration % _CHECK_EVERY == 0:
            changed = np.count_nonzero(mask & ~last) / max(1, int(np.count_nonzero(mask)))
            if changed == 0 and iteration > 0:
                break
            rho *= np.float32(next(factor for share, factor in _GROWTH if changed >= share))
            last = mask
    return mask
