"""SparseGPT: choose what to drop column by column while the columns to the right make up for it.

Source: Frantar and Alistarh 2023 (SparseGPT), extended to N×1 blocks (rows share H, so a block's
loss is the sum of its rows') and 1×G groups (a group's loss is the sum of its columns' losses in
elimination order).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from sparsecc.formats.patterns import (
    Mask,
    Pattern,
    block_sums,
    expand_blocks,
    keep_highest,
    keep_n_of_m,
)
from sparsecc.passes.weights.scores import DAMPING, damped, inverse_cholesky

Matrix = NDArray[np.float64]

PANEL = 128


@dataclasses.dataclass(frozen=True)
class Elimination:
    """What one second moment of inputs means for every pruning.

    Attributes:
        upper: U with ``UᵀU = H⁻¹`` of the damped moment, ``[K, K]``.
        dead: Inputs that are never active, ``[K]``.
    """

    upper: Matrix
    dead: Mask

    @classmethod
    def of(cls, h: Matrix, damping: float = DAMPING) -> Elimination:
        """Of ``h[K, K]``, the mean of x xᵀ; ``damping`` as :func:`sparsegpt` takes it."""
        safe, dead = damped(h, damping)
        return cls(inverse_cholesky(safe), dead)


def sparsegpt(
    weight: NDArray[np.floating],
    h: Matrix,
    pattern: Pattern,
    sparsity: float,
    *,
    damping: float = DAMPING,
    mask: Mask | None = None,
    known: Elimination | None = None,
) -> tuple[Matrix, Mask]:
    """Prune ``weight[R, K]`` for inputs with second moment ``h[K, K]``.

    Args:
        weight: The dense weight.
        h: Mean of x xᵀ.
        pattern: What is dropped together.
        sparsity: Share of blocks to drop; met exactly, panel by panel (ignored by N:M).
        damping: Added to H's diagonal, relative to its mean.
        mask: Use this mask ``[R, K]`` and only update the values that stay.
        known: What H means, where it was computed before; damping is in it.

    Returns:
        The updated weight (zeros exact) and its mask. Weights of dead inputs are zero.
    """
    w = np.array(weight, np.float64)
    if mask is None and pattern.kind == "dense":
        return w, np.ones(w.shape, bool)
    known = known or Elimination.of(h, damping)
    u = known.upper
    w[:, known.dead] = 0
    kept = np.ones(w.shape, bool) if mask is None else mask.copy()
    dropped = 0
    for start, stop in _panels(w.shape[1], pattern):
        panel, factor = w[:, start:stop].copy(), u[start:stop, start:stop]
        if mask is None and pattern.kind != "nm":
            target = _blocks_to_drop(w.shape, stop, pattern, sparsity) - dropped
            kept[:, start:stop] = _panel_mask(panel, factor, pattern, target)
            dropped += target
        errors = np.zeros(panel.shape)
        for j in range(stop - start):
            if mask is None and pattern.kind == "nm" and j % pattern.group == 0:
                group = slice(j, min(j + pattern.group, stop - start))
                scores = np.square(panel[:, group] / np.diag(factor)[group])
                kept[:, start:stop][:, group] = keep_n_of_m(scores, pattern.keep, pattern.group)
            errors[:, j] = panel[:, j] * ~kept[:, start + j] / factor[j, j]
            panel[:, j:] -= np.outer(errors[:, j], factor[j, j:])
        w[:, start:stop] = panel
        w[:, stop:] -= errors @ u[start:stop, stop:]
    return np.where(kept, w, 0.0), kept


def _panels(cols: int, pattern: Pattern) -> list[tuple[int, int]]:
    """Column ranges of about PANEL columns that never cut a group."""
    side = max(pattern.group, pattern.block[1])
    width = max(1, PANEL // side) * side
    return [(start, min(start + width, cols)) for start in range(0, cols, width)]


def _blocks_to_drop(shape: tuple[int, ...], stop: int, pattern: Pattern, sparsity: float) -> int:
    """Blocks to have dropped once the columns before ``stop`` are done."""
    rows, cols = pattern.block
    block_rows, block_cols = -(-shape[0] // rows), -(-shape[1] // cols)
    total = round(sparsity * block_rows * block_cols)
    return round(total * -(-stop // cols) / block_cols)


def _panel_mask(panel: Matrix, factor: Matrix, pattern: Pattern, drop: int) -> Mask:
    """Drop the ``drop`` blocks of ``panel[R, width]`` that cost least, given U's diagonal block."""
    shape = (panel.shape[0], panel.shape[1])
    cols = pattern.block[1]
    scores = np.empty(shape)
    if cols == 1:
        scores[:] = np.square(panel / np.diag(factor))
    else:
        for start in range(0, shape[1], cols):
            group = slice(start, min(start + cols, shape[1]))
            corner = factor[group, group]
            eliminated = scipy.linalg.solve_triangular(corner, panel[:, group].T, trans="T")
            scores[:, group] = np.square(eliminated).T
    kept = keep_highest(block_sums(scores, pattern.block), drop)
    return expand_blocks(kept, pattern.block, shape)
