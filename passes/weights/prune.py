"""Prune layers: find the mask, refit what stays, and keep only what helps on held-out data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import PlanError
from sparsecc.executor import SERIAL, Executor
from sparsecc.formats.patterns import Detected, detect, mask_from_scores
from sparsecc.passes.structured.carry_out import (
    Factored,
    approximate,
    density,
    exact_factors,
    rewrite_layers,
)
from sparsecc.passes.weights import scores
from sparsecc.passes.weights.bias_correction import can_shift, shift_bias
from sparsecc.passes.weights.choose import work_of
from sparsecc.passes.weights.layers import Layer, find_layers, matrix, set_matrix
from sparsecc.passes.weights.prune_layer import LayerJob, Pruned, prune_layers
from sparsecc.progress import Counted
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.moments import Moments, Window
from sparsecc.quality.runner import Tap, stream
from sparsecc.search.plan import Choice

ALPS_MOST_INPUTS = 2400
"""Beyond this K the eigendecomposition of ALPS takes minutes a layer."""
ALPS_TOO_WIDE = f"SparseGPT's mask: ALPS takes too long beyond {ALPS_MOST_INPUTS} inputs"


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
        loss: Relative error of its outputs against the dense model's own, on held-out data, or None
            where it was not measured.
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
    executor: Executor = SERIAL,
    on_progress: Counted | None = None,
) -> list[LayerResult]:
    """Prune or factor the chosen layers of ``model`` in place, in the order of the graph.

    Each layer sees the inputs that the already pruned layers before it produce, and is refitted to
    what it puts out in the dense model: so it makes up for what they lost, too, channel by channel
    in scale and mean (what re-estimating a BatchNorm would do) and between channels.

    Args:
        model: Changed in place.
        choices: Layer name → what to do; dense choices without a structure and unnamed layers are
            left alone.
        calibration: Sample inputs. Without them masks are by magnitude and values stay.
        executor: Where large layers are worked on.
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
        if layer.name in choices
        and (choices[layer.name].pattern.kind != "dense" or choices[layer.name].structure)
    ]
    results = {layer.name: _kept(layer, choices[layer.name]) for layer in chosen}
    todo = [layer for layer in chosen if choices[layer.name].changes]
    factored = list(_exactly(chosen, choices, results))
    if calibration is None:
        for done, layer in enumerate(todo):
            if on_progress is not None:
                on_progress(f"pruning {layer.name}", done, len(todo))
            choice = choices[layer.name]
            if choice.structure:
                made, results[layer.name] = _factored(layer, choice, None, None)
                factored.append(made)
            else:
                results[layer.name] = _by_magnitude(layer, choice)
    else:
        dense = model.clone()
        for together, train, held_out in with_statistics(
            model, todo, calibration, on_progress, dense=dense
        ):
            masked = [layer for layer in together if not choices[layer.name].structure]
            jobs = [_job(layer, choices[layer.name], train, held_out) for layer in masked]
            for layer, job, pruned in zip(masked, jobs, prune_layers(jobs, executor), strict=True):
                put(layer, pruned.weight, pruned.shift)
                results[layer.name] = _result(choices[layer.name], job, pruned)
            for layer in together:
                if layer not in masked:
                    made, result = _factored(layer, choices[layer.name], train, held_out)
                    factored.append(made)
                    results[layer.name] = result
    rewrite_layers(model, factored)  # last: until here each layer is one node
    return list(results.values())


def _exactly(
    layers: Sequence[Layer], choices: Mapping[str, Choice], results: dict[str, LayerResult]
) -> Iterator[Factored]:
    """Factors of the layers that have a structure already; results say where one has not."""
    for layer in layers:
        choice = choices[layer.name]
        if choice.structure and not choice.changes:
            found = exact_factors(layer, choice.structure)
            if isinstance(found, Factored):
                yield found
            else:
                results[layer.name] = dataclasses.replace(results[layer.name], reason=found)


def _factored(
    layer: Layer, choice: Choice, train: Moments | None, held_out: Moments | None
) -> tuple[Factored, LayerResult]:
    """The best factors of a layer, whose weight becomes what they stand for."""
    weight = np.asarray(matrix(layer), np.float64)
    shifts = can_shift(layer) and choice.refit
    fit, sparse, pruned = approximate(weight, choice, train, held_out, shifts=shifts)
    put(layer, pruned.weight, pruned.shift)
    result = dataclasses.replace(
        _kept(layer, choice),
        density=density(fit, sparse, layer),
        update=pruned.update,
        bias_corrected=pruned.shift is not None,
        loss=pruned.loss,
        accepted=True,
    )
    return Factored(layer, fit, sparse), result


def with_statistics(
    model: ir.Model,
    layers: Sequence[Layer],
    calibration: Calibration,
    on_progress: Counted | None,
    *,
    dense: ir.Model | None = None,
) -> Iterator[tuple[list[Layer], Moments, Moments | None]]:
    """What the inputs of layers look like once the layers before them are pruned.

    Args:
        model: Its layers may change on the way.
        layers: The layers.
        calibration: Sample inputs.
        on_progress: Called as (what, steps done, steps in all).
        dense: A copy of the model that stays as it is; statistics then say, beside, what the layers
            read there.

    Yields:
        Layers that read the same input, with its statistics.
    """
    sharing: dict[tuple[ir.Value, Window | None], list[Layer]] = {}
    for layer in layers:
        window = Window.of(layer.node, layer.kernel) if layer.op == "Conv" else None
        sharing.setdefault((layer.input, window), []).append(layer)
    taps = {
        Tap(members[0].name, value, members[0].node, window): members
        for (value, window), members in sharing.items()
    }
    few = calibration.for_statistics(sum(work_of(layer).macs for layer in layers))
    for seen in stream(model, list(taps), few, dense=dense, on_progress=on_progress):
        yield taps[seen.tap], seen.train, seen.held_out


def put(layer: Layer, weight: NDArray[np.floating], shift: NDArray[np.floating] | None) -> None:
    """Give a layer new values ``[R, K]``, and move its bias by ``shift[R]``."""
    set_matrix(layer, weight)
    if shift is not None:
        shift_bias(layer, shift)


def _job(layer: Layer, choice: Choice, train: Moments, held_out: Moments | None) -> LayerJob:
    if choice.method == "alps" and layer.cols > ALPS_MOST_INPUTS:
        choice = choice.model_copy(update={"method": "sparsegpt"})
    return LayerJob(layer.name, matrix(layer), choice, train, held_out, can_shift(layer))


def _result(asked: Choice, job: LayerJob, pruned: Pruned) -> LayerResult:
    too_wide = asked.method != job.choice.method
    return LayerResult(
        name=job.name,
        choice=job.choice,
        density=_density(pruned.weight),
        method=job.choice.method,
        update=pruned.update,
        bias_corrected=pruned.shift is not None,
        loss=pruned.loss,
        mask_loss=pruned.mask_loss,
        accepted=pruned.shift is not None or pruned.update != "mask only",
        reason="; ".join(filter(None, [ALPS_TOO_WIDE if too_wide else "", pruned.reason])),
    )


def _by_magnitude(layer: Layer, choice: Choice) -> LayerResult:
    weight = matrix(layer)
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
        loss=None if choice.changes else 0.0,
        mask_loss=None,
        accepted=False,
        reason="",
    )


def _density(weight: NDArray[np.floating]) -> float:
    return float(np.count_nonzero(weight)) / max(1, weight.size)
