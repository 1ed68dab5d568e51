"""Bring the channels of a model into the order under which its patterns of zeros cost least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.formats.patterns import Pattern, block_sums, mask_from_scores
from sparsecc.passes.base import Context
from sparsecc.passes.permute.couplings import Coupled, Couplings, Ids, find_couplings
from sparsecc.passes.permute.rearrange import moved_array, rearrange, sources
from sparsecc.passes.permute.search import EFFORT, Order, Term, search
from sparsecc.passes.weights import scores
from sparsecc.passes.weights.bias_correction import can_shift
from sparsecc.passes.weights.layers import (
    Layer,
    as_matrix,
    find_layers,
    matrix,
    rows_first,
    stored,
)
from sparsecc.passes.weights.prune import with_statistics
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.runner import Progress
from sparsecc.search.plan import Choice

PASS_NAME = "permute"

Scores = NDArray[np.float64]
NO_GAIN = "no order of its channels keeps more"
NOT_FREE = "no channels that its pattern sees may change places"


@dataclass(frozen=True)
class Rearranged:
    """What the order of channels changed for one layer.

    Attributes:
        before: Share of the energy that its pattern keeps with channels as they were.
        after: The same now.
    """

    before: float
    after: float

    def __str__(self) -> str:
        return (
            f"channels in another order: zeros keep {self.after:.1%} of what counts, not "
            f"{self.before:.1%}"
        )


@dataclass(frozen=True)
class _Side:
    """One axis of a layer along which its pattern groups channels.

    Attributes:
        layer: The layer.
        pattern: What is dropped together.
        density: Share that is kept.
        rows: Whether it is the axis of outputs.
        classes: Class of each channel along it.
        scores: ``[channels, places]``, summed up over the other side of a block.
    """

    layer: Layer
    pattern: Pattern
    density: float
    rows: bool
    classes: Ids
    scores: NDArray[np.float32]

    @property
    def side(self) -> int:
        """Channels that a block or a group takes."""
        if self.pattern.kind == "nm":
            return self.pattern.group
        return self.pattern.block[0 if self.rows else 1]


def permute_model(
    model: ir.Model,
    choices: Mapping[str, Choice],
    calibration: Calibration | None,
    ctx: Context,
    *,
    seed: int = 0,
    effort: int = EFFORT,
    on_progress: Progress | None = None,
) -> dict[str, Rearranged]:
    """Permute coupled channels for what is to be pruned; what the model computes stays the same.

    Args:
        model: In canonical form, changed in place.
        choices: Layer name → what will be done to it. Layers that keep the zeros they have do not
            take part; where their channels move, their zeros move along.
        calibration: Sample inputs, to tell which weights matter; without them their squares do.
        ctx: Told of layers whose pattern gains nothing, and why.
        seed: Of the search.
        effort: Numbers looked at for one set of channels.
        on_progress: Called as (what, steps done, steps in all).

    Returns:
        Layer name → what changed, for layers whose channels moved.
    """
    layers = [
        layer
        for layer in find_layers(model).layers
        if layer.name in choices and _grouped(choices[layer.name])
    ]
    if not layers:
        return {}
    couplings = find_couplings(model)
    weighed = importance(model, layers, calibration, on_progress)
    sides = [
        side
        for layer in layers
        for side in _sides(layer, choices[layer.name], weighed[layer.name], couplings)
    ]
    orders, gained = list[tuple[Coupled, Order]](), set[str]()
    seen = set[str]()
    for done, coupled in enumerate(couplings.sets):
        if on_progress is not None:
            on_progress("looking for the order of channels", done, len(couplings.sets))
        order, touched, better = _ordered(coupled, sides, seed, effort)
        seen |= touched
        if better:
            orders.append((coupled, order))
            gained |= touched
    before = {layer.name: _share(weighed[layer.name], choices[layer.name]) for layer in layers}
    moved = _moved_scores(couplings, orders, layers, weighed)
    rearrange(couplings, orders)
    for layer in layers:
        if layer.name not in gained:
            ctx.refuse(PASS_NAME, layer.node, NO_GAIN if layer.name in seen else NOT_FREE)
    return {
        layer.name: Rearranged(before[layer.name], _share(moved[layer.name], choices[layer.name]))
        for layer in layers
        if layer.name in gained
    }


def importance(
    model: ir.Model,
    layers: Sequence[Layer],
    calibration: Calibration | None,
    on_progress: Progress | None = None,
) -> dict[str, Scores]:
    """Layer name → how much each weight ``[R, K]`` matters.

    That is what it costs to drop it alone, w² / [H⁻¹]_jj, or w² without data.
    """
    if calibration is None:
        return {layer.name: scores.magnitude(matrix(layer)) for layer in layers}
    found = {}
    for together, train, _ in with_statistics(model, layers, calibration, on_progress):
        for layer in together:
            second = train.centred if can_shift(layer) else train.h
            parts = zip(np.split(matrix(layer), len(second)), second, strict=True)
            found[layer.name] = np.concatenate(
                [scores.magnitude(part) / _inverse_diagonal(h) for part, h in parts]
            )
    return found


def _inverse_diagonal(h: Scores) -> Scores:
    """``[K]``: the diagonal of H⁻¹, made safe; a column that is never active costs nothing."""
    safe, dead = scores.damped(h)
    inverse: Scores = np.square(scores.inverse_cholesky(safe)).sum(axis=0)
    inverse[dead] = np.inf
    return inverse


def _grouped(choice: Choice) -> bool:
    """Whether the pattern of a choice puts channels together."""
    pattern = choice.pattern
    several = pattern.kind == "nm" or (pattern.kind == "block" and max(pattern.block) > 1)
    return several and choice.method != "existing" and choice.sparsity > 0


def _sides(layer: Layer, choice: Choice, weighed: Scores, couplings: Couplings) -> list[_Side]:
    """The axes of a layer along which its pattern groups channels that have labels."""
    value = layer.node.inputs[1]
    if value is None or value not in couplings.constants:
        return []
    pattern, density = choice.pattern, 1 - choice.sparsity
    block = (1, 1) if pattern.kind == "nm" else pattern.block
    rows, cols = _axes(layer, couplings.constants[value][1])
    found = []
    if rows is not None and block[0] > 1:
        over = block_sums(weighed, (1, block[1])).astype(np.float32)
        classes = couplings.classes[rows.ravel()]
        found.append(_Side(layer, pattern, density, True, classes, over))
    width = layer.cols // (layer.kernel[0] * layer.kernel[1])
    side = pattern.group if pattern.kind == "nm" else block[1]
    if cols is not None and side > 1 and (width % side == 0 or layer.cols == width):
        for group, labels in zip(
            np.split(weighed, layer.groups), cols.reshape(layer.groups, width), strict=True
        ):
            summed = block_sums(group, (block[0], 1)).reshape(-1, layer.cols // width, width)
            places = summed.transpose(2, 0, 1).reshape(width, -1).astype(np.float32)
            found.append(_Side(layer, pattern, density, False, couplings.classes[labels], places))
    return found


def _axes(layer: Layer, tags: Sequence[Ids]) -> tuple[Ids | None, Ids | None]:
    """The labels of a layer's outputs and of its inputs, where it has some."""
    if layer.op == "Conv":  # seen as [groups, outputs, inputs, height, width]
        rows = next((tag for tag in tags if tag.shape[2] == 1), None)
        return rows, next((tag for tag in tags if tag.shape[2] > 1), None)
    axis = 0 if rows_first(layer) else 1
    rows = next((tag for tag in tags if tag.shape[axis] > 1), None)
    return rows, next((tag for tag in tags if tag.shape[1 - axis] > 1), None)


def _ordered(
    coupled: Coupled, sides: Sequence[_Side], seed: int, effort: int
) -> tuple[Order, set[str], bool]:
    """A set's best order, the layers that it matters to, and whether it is better."""
    count, width = coupled.units.shape
    order = np.arange(count)
    size = 1 + max(int(coupled.units.max()), *(int(side.classes.max()) for side in sides), 0)
    place = np.full(size, -1)
    place[coupled.units] = np.arange(coupled.units.size).reshape(coupled.units.shape)
    terms, touched, arranged = list[Term](), set[str](), np.zeros(0, np.int64)
    for side in sorted(sides, key=lambda each: -each.side):
        slots, units = _slots(place[side.classes], width, side.side)
        if slots.size and (not terms or np.array_equal(units, arranged)):
            arranged = units
            terms.append(_term(side, slots))
            touched.add(side.layer.name)
    if not terms:
        return order, touched, False
    found = search(terms, seed=seed, effort=effort)
    order[arranged] = arranged[found.order]
    return order, touched, found.after > found.before


def _slots(place: Ids, width: int, side: int) -> tuple[Ids, Ids]:
    """Channels of a side that a set may exchange in whole blocks, and the units they are of.

    Args:
        place: Channel → its class's place among a set's, or -1.
        width: Classes of a unit.
        side: Channels of a block.
    """
    held = np.flatnonzero(place >= 0)
    columns = np.unique(place[held] % width)
    if columns.size != 1:  # none, or units that fill blocks by themselves, as heads do
        return held[:0], held[:0]
    full = np.bincount(held // side, minlength=len(place) // side + 1) == side
    slots = held[full[held // side]]
    return slots, place[slots] // width


def _term(side: _Side, slots: Ids) -> Term:
    if side.pattern.kind == "nm":
        return Term(side.scores[slots], side.side, keep=side.pattern.keep)
    starts = np.arange(0, len(side.scores), side.side)
    others = np.setdiff1d(np.arange(starts.size), slots // side.side)
    rest = np.add.reduceat(side.scores, starts, axis=0)[others].ravel()
    return Term(side.scores[slots], side.side, density=side.density, rest=rest)


def _moved_scores(
    couplings: Couplings,
    orders: Sequence[tuple[Coupled, Order]],
    layers: Sequence[Layer],
    weighed: Mapping[str, Scores],
) -> dict[str, Scores]:
    """How much each weight matters when channels have moved."""
    come = sources(couplings, orders)
    found = {}
    for layer in layers:
        value, score = layer.node.inputs[1], weighed[layer.name]
        if value is None or value not in couplings.constants:
            found[layer.name] = score
            continue
        seen, tags = couplings.constants[value]
        array = stored(layer, score)
        moved = moved_array(array.reshape(seen), tags, come).reshape(array.shape)
        found[layer.name] = as_matrix(layer, moved)
    return found


def _share(weighed: Scores, choice: Choice) -> float:
    """Share of what counts that the pattern keeps."""
    mask = mask_from_scores(weighed, choice.pattern, choice.sparsity)
    return float(weighed[mask].sum() / max(weighed.sum(), 1e-300))


__all__ = ["Rearranged", "importance", "permute_model"]
