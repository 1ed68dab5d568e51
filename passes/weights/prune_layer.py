"""Prune one weight: find its mask, then the values that do best on held-out data.

The work on layers that are known at the same time, and on the values tried for one layer, runs
side by side in an executor; results are the same wherever it runs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from sparsecc.executor import SERIAL, Executor
from sparsecc.formats.patterns import Mask, mask_from_scores
from sparsecc.passes.weights import scores
from sparsecc.passes.weights.alps import alps
from sparsecc.passes.weights.refit import refit
from sparsecc.passes.weights.scores import damped
from sparsecc.passes.weights.sparsegpt import sparsegpt
from sparsecc.quality.moments import ROWS_PER_INPUT, Moments
from sparsecc.search.plan import Choice, Method

Matrix = NDArray[np.float64]

RIDGES = (0.01, 0.1)
"""λ tried by the refit, relative to the mean of H's diagonal; held-out data decide."""
FEW_ROWS_RIDGES = (0.1, 1.0)
"""The same where there are fewer than ROWS_PER_INPUT rows per input."""
REBUILDING: tuple[Method, ...] = ("sparsegpt", "alps")
"""Methods whose masks are for values that will be refitted."""
_WORTH_SENDING = 3e7
"""R·K² of a layer from which on another process takes less time than copying the layer there."""


@dataclasses.dataclass(frozen=True)
class LayerJob:
    """A weight and what it is to become; all that another process needs to know.

    Attributes:
        name: The layer.
        weight: ``[R, K]``; its rows split evenly over the groups of the moments.
        choice: Pattern, sparsity and method.
        train: Statistics the mask and the values are computed from.
        held_out: Statistics that judge; without them the values stay as they are.
        may_shift: Whether the bias may move to keep the mean of the outputs.
    """

    name: str
    weight: NDArray[np.floating]
    choice: Choice
    train: Moments
    held_out: Moments | None
    may_shift: bool

    @property
    def second(self) -> Matrix:
        """``[groups, K, K]``: the moment that losses of this layer are quadratic in."""
        return self.train.centred if self.may_shift else self.train.h

    @property
    def cross(self) -> Matrix | None:
        """``[groups, K, K]``: the same between the dense model's inputs of the layer and these."""
        goal = self.train.goal
        if goal is None:
            return None
        if not self.may_shift:
            return goal.cross
        return goal.cross - goal.mean[:, :, None] * self.train.mean[:, None, :]


@dataclasses.dataclass(frozen=True)
class Pruned:
    """New values of one layer.

    Attributes:
        weight: ``[R, K]`` float64, zeros exact.
        shift: ``[R]`` to add to the bias, or None.
        loss: Held-out relative output error, or None without held-out data.
        mask_loss: The same for the mask alone.
        update: What was done to the values that stay.
        reason: Why not more.
    """

    weight: Matrix
    shift: Matrix | None
    loss: float | None
    mask_loss: float | None
    update: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class _Masked:
    """A mask, the weights that it was found for, and the ridge that they were found with."""

    mask: Mask
    wanted: Matrix
    ridge: float | None


@dataclasses.dataclass(frozen=True)
class _Attempt:
    """Values to try on a mask: refitted with a ridge, or as they are (None).

    The weights to imitate are given where the mask was found for the same ones.
    """

    job: LayerJob
    mask: Mask
    ridge: float | None
    wanted: Matrix | None = None


def prune_layers(jobs: Sequence[LayerJob], executor: Executor = SERIAL) -> list[Pruned]:
    """Prune weights and choose the values that stay by their held-out error.

    Args:
        jobs: Layers that do not depend on each other.
        executor: Where large ones are worked on.

    Returns:
        What becomes of each, in order.
    """
    shapes = [job.weight.shape for job in jobs]
    masked = list(for_layers(executor, shapes).map(_masked, jobs, lambda job: job.name))
    attempts = [_attempts(job, found) for job, found in zip(jobs, masked, strict=True)]
    flat = list(itertools.chain.from_iterable(attempts))
    made = for_layers(executor, [each.job.weight.shape for each in flat]).map(
        _carried_out, flat, lambda attempt: attempt.job.name
    )
    return [_best(list(itertools.islice(made, len(of_layer)))) for of_layer in attempts]


def fit_to(job: LayerJob, mask: Mask) -> Pruned:
    """The values of a layer on a mask that is given, chosen by their held-out error."""
    return _best([_carried_out(_Attempt(job, mask, ridge)) for ridge in _ridges(job)])


def output_error(
    dense: Matrix, pruned: Matrix, moments: Moments, shift: Matrix | None = None
) -> float:
    """Relative output error ``E‖Wz − Vx − shift‖² / E‖Wz‖²`` of ``[R, K]`` weights W and V.

    z is what the layer reads in the dense model, x what it reads here.
    """
    return output_errors(dense, pruned, moments, [shift])[0]


def output_errors(
    dense: Matrix, pruned: Matrix, moments: Moments, shifts: Sequence[Matrix | None]
) -> list[float]:
    """The same for several shifts."""
    wanted, error, energy = moments.wanted, 0.0, 0.0
    parts = zip(*(np.split(each, len(moments.h)) for each in (dense, pruned)), strict=True)
    for group, (w, v) in enumerate(parts):
        h, cross, second = moments.h[group], wanted.cross[group], wanted.second[group]
        delta = w - v  # Wz − Vx = (W − V)x + W(z − x)
        error += float(np.vdot(delta @ h, delta))
        energy += float(np.vdot(w @ second, w))
        if moments.goal is not None:
            drift = second - cross - cross.T + h
            error += float(2 * np.vdot(w @ (cross - h), delta) + np.vdot(w @ drift, w))
    moved = mean_shift(dense, pruned, moments)
    shifted = [
        error if shift is None else error - 2 * float(shift @ moved) + float(shift @ shift)
        for shift in shifts
    ]
    return [max(0.0, each) / energy if energy > 0 else 0.0 for each in shifted]


def find_mask(weight: NDArray[np.floating], h: Matrix, choice: Choice) -> Mask:
    """The mask of ``choice`` for one group's ``weight[R, K]`` and input moment ``h[K, K]``."""
    pattern, sparsity = choice.pattern, choice.sparsity
    if choice.method == "sparsegpt":
        return sparsegpt(weight, h, pattern, sparsity)[1]
    if choice.method == "alps":
        return alps(weight, h, pattern, sparsity)
    if choice.method == "wanda":
        return mask_from_scores(scores.wanda(weight, h), pattern, sparsity, per_row=True)
    return mask_from_scores(scores.magnitude(weight), pattern, sparsity)


def mean_shift(dense: Matrix, pruned: Matrix, moments: Moments) -> Matrix:
    """What ``[R]`` to add to the bias so that the outputs have the mean of the dense model's."""
    groups = len(moments.mean)
    parts = zip(
        np.split(dense, groups),
        np.split(pruned, groups),
        moments.wanted.mean,
        moments.mean,
        strict=True,
    )
    return np.concatenate([w @ z - v @ x for w, v, z, x in parts])


def aim(weight: Matrix, h: Matrix, cross: Matrix, ridge: float) -> Matrix:
    """The weights ``[R, K]`` that come closest to the dense model's outputs, all of them kept.

    They minimise ``E‖Wz − Vx‖² + λ‖V − W‖²`` for W = ``weight``, z read by the layer in the dense
    model and x read here, ``h[K, K]`` of x and ``cross[K, K]`` = mean of z xᵀ: V = W + W(C − H)A⁻¹
    with A = H + λI. On a support, least squares to them are least squares to the outputs.
    """
    a, _ = damped(h, ridge)
    pull: Matrix = scipy.linalg.solve(a, (cross - h).T @ weight.T, assume_a="pos").T
    return weight + pull


def for_layers(executor: Executor, shapes: Sequence[tuple[int, ...]]) -> Executor:
    """Where to work on layers ``[R, K]``: here unless there are large ones to share out."""
    large = [shape for shape in shapes if shape[0] * shape[1] ** 2 >= _WORTH_SENDING]
    return executor if len(large) > 1 else SERIAL


def _masked(job: LayerJob) -> _Masked:
    aims = job.choice.method in REBUILDING and job.cross is not None
    ridge = _ridges(job)[-1] if aims else None
    wanted = _wanted(job, ridge)
    parts = zip(np.split(wanted, len(job.train.h)), job.second, strict=True)
    masks = [find_mask(part, h, job.choice) for part, h in parts]
    return _Masked(np.concatenate(masks), wanted, ridge)


def _attempts(job: LayerJob, found: _Masked) -> list[_Attempt]:
    return [
        _Attempt(job, found.mask, ridge, found.wanted if ridge and ridge == found.ridge else None)
        for ridge in _ridges(job)
    ]


def _wanted(job: LayerJob, ridge: float | None) -> Matrix:
    """The weights ``[R, K]`` to imitate by those that stay; without ridge the trained ones."""
    dense = np.asarray(job.weight, np.float64)
    if job.cross is None or ridge is None:
        return dense
    parts = zip(np.split(dense, len(job.cross)), job.second, job.cross, strict=True)
    return np.concatenate([aim(part, h, cross, ridge) for part, h, cross in parts])


def _ridges(job: LayerJob) -> tuple[float | None, ...]:
    if job.held_out is None or not job.choice.refit:
        return (None,)
    enough = job.train.rows >= ROWS_PER_INPUT * job.weight.shape[1]
    return (None, *(RIDGES if enough else FEW_ROWS_RIDGES))


def _carried_out(attempt: _Attempt) -> Pruned:
    """The values of an attempt, with a shifted bias where held-out data say that it helps."""
    job, mask, ridge = attempt.job, attempt.mask, attempt.ridge
    dense = np.asarray(job.weight, np.float64)
    values = np.where(mask, dense, 0.0)
    if job.held_out is None:
        return Pruned(values, None, None, None, "mask only", "one batch: nothing held out to judge")
    if ridge is not None:
        wanted = _wanted(job, ridge) if attempt.wanted is None else attempt.wanted
        groups = len(job.train.h)
        parts = zip(np.split(wanted, groups), np.split(mask, groups), job.second, strict=True)
        values = np.concatenate([refit(part, kept, h, ridge) for part, kept, h in parts])
    shifts: list[Matrix | None] = [None]
    if job.may_shift and job.choice.refit:
        shifts.append(mean_shift(dense, values, job.train))
    losses = output_errors(dense, values, job.held_out, shifts)
    best = int(np.argmin(losses))
    update = "mask only" if ridge is None else f"refit {ridge:g}"
    return Pruned(values, shifts[best], losses[best], losses[0], update)


def _best(made: Sequence[Pruned]) -> Pruned:
    """The attempt that loses least, the first of them being the mask alone."""
    alone = made[0]
    if alone.loss is None or len(made) == 1:
        return alone
    best = min(made, key=lambda each: each.loss or 0.0)
    reason = ""
    if best is alone and alone.shift is None:
        reason = "no update lowered the held-out error"
    return dataclasses.replace(best, mask_loss=alone.mask_loss, reason=reason)


__all__ = [
    "RIDGES",
    "LayerJob",
    "Pruned",
    "find_mask",
    "fit_to",
    "for_layers",
    "mean_shift",
    "output_error",
    "prune_layers",
]
