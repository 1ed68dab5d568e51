"""What could be done to each layer: pattern and sparsity, with predicted time and measured loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.cost import roofline
from sparsecc.cost.model import Estimate, cost_model, total
from sparsecc.executor import Executor
from sparsecc.formats.blocks import Block
from sparsecc.formats.patterns import HALVES, Pattern, detect
from sparsecc.passes.structured.carry_out import offer_of
from sparsecc.passes.structured.cost import estimate, is_covered
from sparsecc.passes.structured.detect import exactly, structure_that_pays
from sparsecc.passes.structured.forms import FORMS
from sparsecc.passes.structured.offers import Fitter, Offer, materialised, offers
from sparsecc.passes.weights.bias_correction import can_shift
from sparsecc.passes.weights.choose import choose, work_of
from sparsecc.passes.weights.layers import Layer, find_layers, matrix
from sparsecc.passes.weights.prune import with_statistics
from sparsecc.passes.weights.prune_layer import for_layers, mean_shift, output_error
from sparsecc.progress import Progress, counted
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.moments import Moments
from sparsecc.search.plan import Choice, Method
from sparsecc.search.search import Mode
from sparsecc.targets import Target

_GRIDS: dict[Mode, dict[str, tuple[float, ...]]] = {
    "fast": {
        "4x1": (0.3, 0.5, 0.65, 0.8, 0.9),
        "unstructured": (0.5, 0.65, 0.8, 0.9),
    },
    "thorough": {
        "4x1": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.875, 0.925, 0.96),
        "16x1": (0.5, 0.7, 0.85),
        "unstructured": (0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97),
    },
}
"""Pattern → sparsities tried."""
_GPU_GRIDS: dict[Mode, dict[str, tuple[float, ...]]] = {
    "fast": {
        "2:4": (0.5,),
        "64x1": (0.5, 0.65, 0.8, 0.9),
        "unstructured": (0.5, 0.65, 0.8, 0.9),
    },
    "thorough": {
        "2:4": (0.5,),
        "64x1": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        "16x1": (0.5, 0.6, 0.7, 0.8, 0.85, 0.9),
        "unstructured": (0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94),
    },
}
"""The same for GPUs, of which those with kernels are tried."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One thing that could be done to a layer.

    Attributes:
        choice: What.
        density: Share of non-zero weights then.
        ms: Predicted time.
        weight_bytes: Of the weight as stored.
        spread: Relative error of the time, one sigma.
        loss: Relative output error on held-out data.
    """

    choice: Choice
    density: float
    ms: float
    weight_bytes: int
    spread: float = 0.0
    loss: float = 0.0

    @property
    def changes(self) -> bool:
        """Whether the layer's weight does not stay as it is."""
        return self.choice.changes


@dataclasses.dataclass(frozen=True)
class Probe:
    """What one of the candidates makes of a layer, to see how much the model minds.

    Attributes:
        loss: Its relative output error.
        weight: ``[R, K]`` float32.
        shift: ``[R]`` to add to the bias, or None.
    """

    loss: float
    weight: NDArray[np.float32]
    shift: NDArray[np.float64] | None


@dataclasses.dataclass(frozen=True)
class Question:
    """A layer whose choices are to be measured; all that another process needs to know.

    Attributes:
        name: The layer.
        weight: ``[R, K]``.
        choices: What could be done to it.
        train: What masks and values are computed from.
        held_out: What judges; without it the training statistics do.
        may_shift: Whether the bias may move.
    """

    name: str
    weight: NDArray[np.floating]
    choices: Sequence[Choice]
    train: Moments
    held_out: Moments | None
    may_shift: bool


def offer(layer: Layer, target: Target, mode: Mode, method: Method) -> list[Candidate]:
    """What could be done to a layer, the zeros it already has first; losses are not measured yet.

    Args:
        layer: The layer.
        target: Where it runs.
        mode: How fine a grid of patterns and sparsities.
        method: How the mask is to be found where the plan is carried out.

    Returns:
        The layer as it is, then everything that the cost model expects to be faster.
    """
    kept = _as_it_is(layer, target)
    if layer.keep_dense:
        return [kept]
    found = [kept]
    for name, sparsities in _grid(layer, target, mode).items():
        pattern = Pattern.parse(name)
        if (layer.rows // layer.groups) % pattern.block[0]:
            continue
        for sparsity in sparsities:
            made = _made(layer, target, Choice(pattern=pattern, sparsity=sparsity, method=method))
            if made.density < kept.density and made.ms <= roofline.WORTHWHILE * kept.ms:
                found.append(made)
    for each in offers(layer, mode):
        if not is_covered(each.structure, target):
            continue
        factored = _factors(layer, target, each, method)
        if factored.density < kept.density and factored.ms <= roofline.WORTHWHILE * kept.ms:
            found.append(factored)
    return found


def _grid(layer: Layer, target: Target, mode: Mode) -> Mapping[str, Sequence[float]]:
    """Patterns that there are kernels for, and the sparsities tried of each."""
    costs = cost_model(target)
    if costs.why_not(work_of(layer)):
        return {}
    if not costs.is_gpu:
        return _GRIDS[mode]
    return {
        name: sparsities
        for name, sparsities in _GPU_GRIDS[mode].items()
        if Pattern.parse(name).block in costs.blocks
    }


def worth_keeping(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates without the factors that some zeros beat in time and loss."""
    zeros = [each for each in candidates if not each.choice.structure]
    return [
        each
        for each in candidates
        if not (each.choice.structure and each.changes)
        or not any(other.ms <= each.ms and other.loss <= each.loss for other in zeros)
    ]


def measure_layers(
    graph: ir.Model,
    choices: Mapping[str, Sequence[Choice]],
    data: Calibration,
    executor: Executor,
    progress: Progress,
) -> tuple[dict[str, list[float]], dict[str, Probe]]:
    """Losses of choices, each layer changed alone.

    Args:
        graph: The model; it is not changed.
        choices: Layer name → what could be done to it.
        data: Calibration data.
        executor: Where layers are worked on.
        progress: Told what is being done.

    Returns:
        Layer name → loss of each choice; layer name → probe where some choice changes the layer.
    """
    layers = [layer for layer in find_layers(graph).layers if layer.name in choices]
    asked: list[str] = []

    def questions() -> Iterator[Question]:
        for together, train, held_out in with_statistics(graph, layers, data, counted(progress)):
            for layer in together:
                asked.append(layer.name)
                tried, shifts = choices[layer.name], can_shift(layer)
                yield Question(layer.name, matrix(layer), tried, train, held_out, shifts)

    losses: dict[str, list[float]] = {}
    probes: dict[str, Probe] = {}
    where = for_layers(executor, [(layer.rows, layer.cols) for layer in layers])
    answers = where.map(measure, questions(), lambda question: question.name)
    for number, (measured, probe) in enumerate(answers):
        losses[asked[number]] = measured
        if probe is not None:
            probes[asked[number]] = probe
    return losses, probes


def measure(question: Question) -> tuple[list[float], Probe | None]:
    """The losses of the choices, as SparseGPT makes them, and the middle one's weight.

    They serve to compare: a plan is carried out with its own method, and a refit.
    """
    w = np.asarray(question.weight, np.float64)
    train, judge = question.train, question.held_out or question.train
    second = train.centred if question.may_shift else train.h
    fitters = [Fitter(part, h) for part, h in zip(np.split(w, len(train.h)), second, strict=True)]
    losses, made = [], []
    for each in question.choices:
        if not each.changes:
            losses.append(0.0)
            continue
        if each.structure:
            fit, beside = fitters[0].factors(offer_of(each))
            values = materialised(fit, beside, (w.shape[0], w.shape[1]))
        else:
            zeros = [fitter.zeros(each.pattern, each.sparsity) for fitter in fitters]
            values = np.concatenate(zeros)
        shift = mean_shift(w, values, train) if question.may_shift else None
        losses.append(output_error(w, values, judge, shift))
        made.append(Probe(losses[-1], values.astype(np.float32), shift))
    made.sort(key=lambda probe: probe.loss)
    return losses, made[(len(made) - 1) // 2] if made else None


def _as_it_is(layer: Layer, target: Target) -> Candidate:
    found = detect(matrix(layer))
    row = choose(layer, target, beside=True).row
    choice = Choice(
        pattern=found.pattern, sparsity=1 - found.density, method="existing", refit=False
    )
    exact = structure_that_pays(layer, target, row)
    if exact is not None:
        price = FORMS[exact.structure.form].price(exact.structure, (layer.rows, layer.cols))
        choice = exactly(exact.structure)
        share, size = min(1.0, price.parameters / (layer.rows * layer.cols)), price.parameters
        return Candidate(choice, share, exact.time.ms, 4 * size, exact.time.spread)
    stored = 4 * layer.rows * layer.cols
    if row.is_sparse:
        stored = _bytes(layer, found.pattern.block, found.density)
    return Candidate(choice, found.density, row.est_ms, stored, row.spread)


def _made(layer: Layer, target: Target, choice: Choice) -> Candidate:
    density, block = 1 - choice.sparsity, choice.pattern.block
    blocks = _blocks(layer, block, density)
    work = work_of(layer)
    halved = (choice.pattern.keep, choice.pattern.group) == HALVES
    estimate = cost_model(target).sparse(work, block, blocks, beside=True, halved=halved)
    return Candidate(choice, density, estimate.ms, _bytes(layer, block, density), estimate.spread)


def _factors(layer: Layer, target: Target, offer: Offer, method: Method) -> Candidate:
    """A structure that a layer does not have, with what is sparse beside it."""
    shape, work = (layer.rows, layer.cols), work_of(layer)
    choice = Choice(
        pattern=offer.pattern,
        sparsity=offer.sparsity,
        method=method,
        structure=str(offer.structure),
    )
    parameters = FORMS[offer.structure.form].price(offer.structure, shape).parameters
    parts, share = [estimate(offer.structure, work, target)], parameters / math.prod(shape)
    stored = roofline.BYTES_PER_WEIGHT * parameters
    if offer.sparsity:
        beside = _made(layer, target, choice)
        parts.append(Estimate(beside.ms, beside.spread))
        share, stored = share + beside.density, stored + beside.weight_bytes
    time = total(parts)
    return Candidate(choice, min(1.0, share), time.ms, stored, time.spread)


def _blocks(layer: Layer, block: Block, density: float) -> int:
    cells = math.ceil(layer.rows / block[0]) * math.ceil(layer.cols / block[1])
    return max(1, round(cells * density))


def _bytes(layer: Layer, block: Block, density: float) -> int:
    each = roofline.BYTES_PER_WEIGHT * block[0] * block[1] + roofline.BYTES_PER_INDEX
    return _blocks(layer, block, density) * each
