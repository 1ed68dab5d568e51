"""What the order of a set of coupled channels means for the patterns of the layers it is in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.formats.patterns import Pattern, block_sums
from sparsecc.passes.permute.couplings import Coupled, Couplings, Ids
from sparsecc.passes.permute.search import Order, Term
from sparsecc.passes.weights import scores
from sparsecc.passes.weights.bias_correction import can_shift
from sparsecc.passes.weights.layers import Layer, matrix, rows_first
from sparsecc.passes.weights.prune import with_statistics
from sparsecc.progress import Counted
from sparsecc.quality.calibration import Calibration
from sparsecc.search.plan import Choice

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """A set of channels whose order matters.

    Attributes:
        coupled: The set.
        terms: One for each weight and axis that it matters to, channels as they are now.
        arranged: Units of the set in the order of the channels of the terms; what is left of the
            set shares blocks with others and stays.
        layers: Names of the layers that the terms are of.
    """

    coupled: Coupled
    terms: tuple[Term, ...]
    arranged: Ids
    layers: tuple[str, ...]

    def order(self, found: Order) -> Order:
        """The order of the whole set that an order of the terms' channels makes."""
        order = np.arange(len(self.coupled.units))
        order[self.arranged] = self.arranged[found]
        return order


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


def problems(
    couplings: Couplings,
    layers: Sequence[Layer],
    choices: Mapping[str, Choice],
    weighed: Mapping[str, Scores],
) -> list[Problem]:
    """Every set of channels whose order matters to the patterns of some layers.

    Args:
        couplings: Of the model.
        layers: Those that are to be pruned.
        choices: Layer name → what will be done to it.
        weighed: Layer name → how much each weight ``[R, K]`` matters.
    """
    sides = [
        side
        for layer in layers
        for side in _sides(layer, choices[layer.name], weighed[layer.name], couplings)
    ]
    found = (_problem(coupled, sides, couplings) for coupled in couplings.sets)
    return [problem for problem in found if problem is not None]


def _problem(coupled: Coupled, sides: Sequence[_Side], couplings: Couplings) -> Problem | None:
    place = np.full(int(couplings.classes.max()) + 1, -1)
    place[coupled.units] = np.arange(coupled.units.size).reshape(coupled.units.shape)
    terms, layers, arranged = list[Term](), list[str](), np.zeros(0, np.int64)
    for side in sorted(sides, key=lambda each: -each.side):
        slots, units = _slots(place[side.classes], coupled.units.shape[1], side.side)
        if slots.size and (not terms or np.array_equal(units, arranged)):
            arranged = units
            terms.append(_term(side, slots))
            layers.append(side.layer.name)
    return Problem(coupled, tuple(terms), arranged, tuple(layers)) if terms else None


def importance(
    model: ir.Model,
    layers: Sequence[Layer],
    calibration: Calibration | None,
    on_progress: Counted | None = None,
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


def groups_channels(choice: Choice) -> bool:
    """Whether the pattern of a choice puts channels together."""
    pattern = choice.pattern
    several = pattern.kind == "nm" or (pattern.kind == "block" and max(pattern.block) > 1)
    return several and choice.sparsity > 0


def _sides(layer: Layer, choice: Choice, weighed: Scores, couplings: Couplings) -> list[_Side]:
    """The axes of a layer along which its pattern groups channels that have labels."""
    value = layer.node.inputs[1]
    if value is None or value not in couplings.constants:
        return []
    pattern, density = choice.pattern, 1 - choice.sparsity
    block = (1, 1) if pattern.kind == "nm" else pattern.block
    rows, cols = axes_of(layer, couplings.constants[value][1])
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


def axes_of(layer: Layer, tags: Sequence[Ids]) -> tuple[Ids | None, Ids | None]:
    """The labels of a layer's outputs and of its inputs, where it has some."""
    if layer.op == "Conv":  # seen as [groups, outputs, inputs, height, width]
        rows = next((tag for tag in tags if tag.shape[2] == 1), None)
        return rows, next((tag for tag in tags if tag.shape[2] > 1), None)
    axis = 0 if rows_first(layer) else 1
    rows = next((tag for tag in tags if tag.shape[axis] > 1), None)
    return rows, next((tag for tag in tags if tag.shape[1 - axis] > 1), None)


def _slots(place: Ids, width: int, side: int) -> tuple[Ids, Ids]:
    """Channels of a side that a set may exchange in whole blocks, and the units they are of.

    Args:
        place: Channel → its class's place among a set's, or -1.
        width: Classes of a unit.
        side: Channels of a block.

    Returns:
        ``[copies, n]`` channels and ``[n]`` units: queries and keys of one product, say, are two
        copies that move together. Empty where copies are cut into blocks in different ways.
    """
    held = np.flatnonzero(place >= 0)
    columns = np.unique(place[held] % width)
    if columns.size != 1:  # none, or units that fill blocks by themselves, as heads do
        return held[None, :0], held[:0]
    full = np.bincount(held // side, minlength=len(place) // side + 1) == side
    slots = held[full[held // side]]
    units = place[slots] // width
    count = np.unique(units).size
    if not count or slots.size % count or (units.reshape(-1, count) != units[:count]).any():
        return held[None, :0], held[:0]
    return slots.reshape(-1, count), units[:count]


def _term(side: _Side, slots: Ids) -> Term:
    scores = np.concatenate(side.scores[slots], axis=1)
    if side.pattern.kind == "nm":
        return Term(scores, side.side, keep=side.pattern.keep)
    starts = np.arange(0, len(side.scores), side.side)
    others = np.setdiff1d(np.arange(starts.size), slots // side.side)
    rest = np.add.reduceat(side.scores, starts, axis=0)[others].ravel()
    return Term(scores, side.side, density=side.density, rest=rest)


__all__ = ["Problem", "Scores", "axes_of", "groups_channels", "importance", "problems"]
