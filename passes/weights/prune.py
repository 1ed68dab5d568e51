"""Prune layers: find the mask, refit what stays, and keep only what helps on held-out data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from sparsecc.errors import PlanError
from sparsecc.formats.patterns import Detected, Mask, detect, mask_from_scores
from sparsecc.passes.weights import scores
from sparsecc.passes.weights.alps import alps
from sparsecc.passes.weights.bias_correction import can_shift, shift_bias
from sparsecc.passes.weights.layers import Layer, find_layers, matrix, set_matrix
from sparsecc.passes.weights.refit import refit
from sparsecc.passes.weights.sparsegpt import sparsegpt
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.moments import ROWS_PER_INPUT, Moments, Window
from sparsecc.quality.runner import Progress, Tap, stream
from sparsecc.search.plan import Choice

Matrix = NDArray[np.float64]

ALPS_MOST_INPUTS = 2400
"""Beyond this K the eigendecomposition of ALPS takes minutes a layer."""
ALPS_TOO_WIDE = f"SparseGPT's mask: ALPS takes too long beyond {ALPS_MOST_INPUTS} inputs"

RIDGES = (0.01, 0.1)
"""λ tried by the refit, relative to the mean of H's diagonal; held-out data decide."""
FEW_ROWS_RIDGES = (0.1, 1.0)
"""The same where there are fewer than ROWS_PER_INPUT rows per input."""


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
class LayerResult:
    """What became of one layer.

    Attributes:
        name: The layer.
        choice: What was asked for.
        density: Share of non-zero weights now.
        method: How the mask was really found.
        update: What was done to the values that stay: "mask only", or the update accepted.
        bias_corrected: Whether the bias moved.
        loss: Relative output error on held-out data, or None where it was not measured.
        mask_loss: The same for the mask alone.
        accepted: Whether an update beat the mask alone.
        reason: Why none did, or a warning.
    """

    name: str
    choice: Choice
    density: float
    method: str
    update: str
    bias_corrected: bool
    loss: float | None
    mask_loss: float | None
    accepted: bool
    reason: str


def detect_layers(layers: Sequence[Layer]) -> dict[str, Detected]:
    """The zeros already in each layer, by name."""
    return {layer.name: detect(matrix(layer)) for layer in layers}


def prune_model(
    model: ir.Model,
    choices: Mapping[str, Choice],
    calibration: Calibration | None = None,
    *,
    on_progress: Progress | None = None,
) -> list[LayerResult]:
    """Prune the chosen layers of ``model`` in place, in the order of the graph.

    Each layer sees the inputs that the already pruned layers before it produce.

    Args:
        model: Changed in place.
        choices: Layer name → what to do; dense choices and unnamed layers are left alone.
        calibration: Sample inputs. Without them masks are by magnitude and values stay.
        on_progress: Called as (what, steps done, steps in all).

    Returns:
        One result per pruned layer, in the order of the graph.

    Raises:
        PlanError: A name is no prunable layer.
        CalibrationError: The model does not run on the calibration data.
    """
    layers = {layer.name: layer for layer in find_layers(model).layers}
    if unknown := [name for name in choices if name not in layers]:
        raise PlanError(
            f"the plan names {unknown[0]!r}, which is no prunable layer of the model",
            fix="see `sparsecc inspect` for the layers; a plan belongs to one model",
        )
    chosen = [
        layer
        for layer in layers.values()
        if layer.name in choices and choices[layer.name].pattern.kind != "dense"
    ]
    results = {layer.name: _kept(layer, choices[layer.name]) for layer in chosen}
    todo = [layer for layer in chosen if choices[layer.name].method != "existing"]
    for layer, train, held_out in with_statistics(model, todo, calibration, on_progress):
        results[layer.name] = _apply(layer, choices[layer.name], train, held_out)
    return list(results.values())


def prune_layer(
    weight: NDArray[np.floating],
    choice: Choice,
    train: Moments,
    held_out: Moments | None,
    *,
    may_shift: bool = False,
) -> Pruned:
    """Prune one weight and choose the values that stay by their held-out error.

    Args:
        weight: ``[R, K]``; its rows split evenly over the groups of the moments.
        choice: Pattern, sparsity and method.
        train: Statistics the mask and the values are computed from.
        held_out: Statistics that judge; without them the values stay as they are.
        may_shift: Whether the bias may move to keep the mean of the outputs.
    """
    w = np.asarray(weight, np.float64)
    parts = np.split(w, len(train.h))
    second = train.centred if may_shift else train.h
    masks = [find_mask(part, h, choice) for part, h in zip(parts, second, strict=True)]
    plain = np.where(np.concatenate(masks), w, 0.0)
    if held_out is None:
        return Pruned(plain, None, None, None, "mask only", "one batch: nothing held out to judge")
    mask_loss = output_error(w, plain, held_out)
    best = Pruned(plain, None, mask_loss, mask_loss, "mask only")
    if not choice.refit:
        return best
    candidates = {"mask only": plain}
    for ridge in RIDGES if train.rows >= ROWS_PER_INPUT * w.shape[1] else FEW_ROWS_RIDGES:
        fitted = [refit(p, m, h, ridge) for p, m, h in zip(parts, masks, second, strict=True)]
        candidates[f"refit {ridge:g}"] = np.concatenate(fitted)
    for update, values in candidates.items():
        shifts = [None, mean_shift(w, values, train)] if may_shift else [None]
        for shift in shifts:
            loss = output_error(w, values, held_out, shift)
            if best.loss is None or loss < best.loss:
                best = Pruned(values, shift, loss, mask_loss, update)
    if best.update == "mask only" and best.shift is None:
        return dataclasses.replace(best, reason="no update lowered the held-out error")
    return best


def output_error(
    dense: Matrix, pruned: Matrix, moments: Moments, shift: Matrix | None = None
) -> float:
    """Relative output error ``E‖(W − V)x − shift‖² / E‖Wx‖²`` of ``[R, K]`` weights."""
    groups = len(moments.h)
    error = energy = 0.0
    deltas, wholes = np.split(dense - pruned, groups), np.split(dense, groups)
    shifts = np.split(np.zeros(len(dense)) if shift is None else shift, groups)
    for delta, whole, part, h, mean in zip(
        deltas, wholes, shifts, moments.h, moments.mean, strict=True
    ):
        error += float(np.vdot(delta @ h, delta)) - 2 * float(part @ (delta @ mean))
        error += float(part @ part)
        energy += float(np.vdot(whole @ h, whole))
    return max(0.0, error) / energy if energy > 0 else 0.0


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
    """What ``[R]`` to add to the bias so that the mean of the outputs stays."""
    deltas = np.split(dense - pruned, len(moments.mean))
    shifts = [delta @ mean for delta, mean in zip(deltas, moments.mean, strict=True)]
    return np.concatenate(shifts)


def with_statistics(
    model: ir.Model,
    layers: Sequence[Layer],
    calibration: Calibration | None,
    on_progress: Progress | None,
) -> Iterator[tuple[Layer, Moments | None, Moments | None]]:
    """Each layer with what its inputs look like once the layers before it are pruned."""
    if calibration is None:
        for done, layer in enumerate(layers):
            if on_progress is not None:
                on_progress(f"pruning {layer.name}", done, len(layers))
            yield layer, None, None
        return
    sharing: dict[tuple[ir.Value, Window | None], list[Layer]] = {}
    for layer in layers:
        window = Window.of(layer.node, layer.kernel) if layer.op == "Conv" else None
        sharing.setdefault((layer.input, window), []).append(layer)
    taps = {
        Tap(members[0].name, value, members[0].node, window): members
        for (value, window), members in sharing.items()
    }
    for seen in stream(model, list(taps), calibration, on_progress=on_progress):
        for layer in taps[seen.tap]:
            yield layer, seen.train, seen.held_out


def _apply(
    layer: Layer, choice: Choice, train: Moments | None, held_out: Moments | None
) -> LayerResult:
    weight = matrix(layer)
    if train is None:
        return _apply_magnitude(layer, choice, weight)
    swept = choice.method == "alps" and layer.cols > ALPS_MOST_INPUTS
    if swept:
        choice = choice.model_copy(update={"method": "sparsegpt"})
    # Thousands of small systems: BLAS threads cost more than they bring, and tie the last bits
    # of the result to their number.
    with threadpool_limits(1, "blas"):
        pruned = prune_layer(weight, choice, train, held_out, may_shift=can_shift(layer))
    set_matrix(layer, pruned.weight)
    if pruned.shift is not None:
        shift_bias(layer, pruned.shift)
    return LayerResult(
        name=layer.name,
        choice=choice,
        density=_density(pruned.weight),
        method=choice.method,
        update=pruned.update,
        bias_corrected=pruned.shift is not None,
        loss=pruned.loss,
        mask_loss=pruned.mask_loss,
        accepted=pruned.shift is not None or pruned.update != "mask only",
        reason="; ".join(filter(None, [ALPS_TOO_WIDE if swept else "", pruned.reason])),
    )


def _apply_magnitude(layer: Layer, choice: Choice, weight: NDArray[np.floating]) -> LayerResult:
    mask = mask_from_scores(scores.magnitude(weight), choice.pattern, choice.sparsity)
    masked = np.where(mask, weight, 0.0)
    set_matrix(layer, masked)
    warning = "no calibration data: magnitude mask, values not refitted; expect a larger loss"
    kept = _kept(layer, choice)
    return dataclasses.replace(kept, density=_density(masked), method="magnitude", reason=warning)


def _kept(layer: Layer, choice: Choice) -> LayerResult:
    """The result for a layer whose weights are used as they are."""
    return LayerResult(
        name=layer.name,
        choice=choice,
        density=1 - choice.sparsity,
        method=choice.method,
        update="mask only",
        bias_corrected=False,
        loss=0.0 if choice.method == "existing" else None,
        mask_loss=None,
        accepted=False,
        reason="",
    )


def _density(weight: NDArray[np.floating]) -> float:
    return float(np.count_nonzero(weight)) / max(1, weight.size)
