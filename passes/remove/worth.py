"""What each unit of a set is worth: the error it leaves behind, the others making up for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes.permute.couplings import Ids
from sparsecc.passes.remove.find import Removable, Side
from sparsecc.passes.weights.bias_correction import has_bias
from sparsecc.passes.weights.layers import Layer, matrix
from sparsecc.passes.weights.prune import with_statistics
from sparsecc.passes.weights.scores import damped, inverse_cholesky
from sparsecc.progress import Counted
from sparsecc.quality.calibration import Calibration

Worth = NDArray[np.float64]

SMALL = 1e-30


def worth(
    model: ir.Model,
    sets: Sequence[Removable],
    calibration: Calibration | None,
    on_progress: Counted | None = None,
) -> list[Worth]:
    """For each set, ``[n]``: what its units are worth.

    With data it is the share of the outputs of the layers that read a unit which is lost if it goes
    and the other inputs are refitted, ``tr W_B ([H⁻¹]_BB)⁻¹ W_Bᵀ / tr W H Wᵀ`` for its inputs B
    (optimal brain surgeon, for blocks). Without, or where no layer reads it, it is the share of
    squared weights that are its own.
    """
    totals = [np.zeros(len(each.units)) for each in sets]
    if calibration is not None:
        readers = {side.layer.name: side.layer for each in sets for side in each.readers}
        for together, train, _ in with_statistics(
            model, list(readers.values()), calibration, on_progress
        ):
            for layer in together:
                h = (train.centred if has_bias(layer) else train.h)[0]
                _add(totals, sets, layer, h)
    for total, each in zip(totals, sets, strict=True):
        if calibration is None or not each.readers:
            for side in each.writers:
                total += _energy(side, matrix(side.layer), len(total))
            for side in each.readers:
                total += _energy(side, matrix(side.layer).T, len(total))
    return totals


def _add(
    totals: Sequence[Worth], sets: Sequence[Removable], layer: Layer, h: NDArray[np.float64]
) -> None:
    """Add what the units of all sets are worth to one layer with the moment ``h[K, K]``."""
    weight = np.asarray(matrix(layer), np.float64)
    safe, dead = damped(h)
    weight[:, dead] = 0.0
    factor = inverse_cholesky(safe)
    inverse = factor.T @ factor
    whole = max(float(np.vdot(weight @ safe, weight)), SMALL)
    for total, each in zip(totals, sets, strict=True):
        for side in each.readers:
            if side.layer.name == layer.name:
                total += lost(weight, inverse, side.units, len(total)) / whole


def lost(weight: Worth, inverse: Worth, units: Ids, count: int) -> Worth:
    """``[count]``: the squared error of ``weight[R, K]`` without the inputs of each unit.

    Args:
        weight: W.
        inverse: ``[K, K]``, of the inputs' second moment.
        units: Input → its unit, or -1.
        count: How many units there are.
    """
    found = np.zeros(count)
    for unit in range(count):
        block = np.flatnonzero(units == unit)
        own = weight[:, block]
        found[unit] = np.vdot(np.linalg.solve(inverse[np.ix_(block, block)], own.T).T, own)
    return found


def _energy(side: Side, rows: NDArray[np.floating], count: int) -> Worth:
    """Share of the squares of a matrix in the rows of each unit."""
    squares = np.square(rows, dtype=np.float64).sum(1)
    held = side.units >= 0
    summed = np.bincount(side.units[held], squares[held], count)
    shares: Worth = summed / max(float(squares.sum()), SMALL)
    return shares


__all__ = ["Worth", "lost", "worth"]
