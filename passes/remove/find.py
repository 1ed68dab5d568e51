"""Which sets of coupled channels, or of heads, may be made smaller, and where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.formats.patterns import Whole
from sparsecc.passes.base import Context
from sparsecc.passes.edit import constant, is_op
from sparsecc.passes.permute.couplings import Coupled, Couplings, Ids
from sparsecc.passes.permute.problems import axes_of
from sparsecc.passes.remove.cut import Obstacle, Reach
from sparsecc.passes.weights.layers import Layer, find_layers

PASS_NAME = "remove"


@dataclass(frozen=True)
class Side:
    """An axis of a layer that a set is on.

    Attributes:
        layer: The layer.
        units: Row, or input, of the layer → the unit that it is of, or -1.
    """

    layer: Layer
    units: Ids


@dataclass(frozen=True)
class Removable:
    """A set of things of which some may go.

    Attributes:
        name: Of the first layer that makes them, or reads them where none does; unique.
        kind: Channels, hidden units of an MLP among them, or heads of attention.
        units: ``[n, k]`` classes: n things, each of k classes.
        writers: Where they are rows.
        readers: Where they are inputs; layers of one group only, since others lose whole groups,
            whose outputs go too.
    """

    name: str
    kind: Whole
    units: Ids
    writers: tuple[Side, ...]
    readers: tuple[Side, ...]

    @property
    def layers(self) -> list[str]:
        """Names of the layers that change."""
        return [side.layer.name for side in (*self.writers, *self.readers)]


def find_removable(
    model: ir.Model, couplings: Couplings, reach: Reach, kind: Whole, ctx: Context
) -> list[Removable]:
    """The sets of one kind, none of which shares a channel with another.

    Args:
        model: In canonical form.
        couplings: Of the model.
        reach: Of its classes.
        kind: Which sets.
        ctx: Told of sets that cannot be made smaller, and why.
    """
    layers, heads = find_layers(model).layers, _heads(model, couplings)
    taken, found, names = np.zeros(0, np.int64), list[Removable](), set[str]()
    stay = list[tuple[Ids, Obstacle]]()
    for coupled in couplings.sets:
        units = coupled.units
        if (kind == "heads") != np.isin(units, heads).any() or np.isin(units, taken).any():
            continue
        obstacle = reach.cut(units[-1])
        if isinstance(obstacle, Obstacle):
            stay.append((units, obstacle))
            continue
        made = _placed(coupled, kind, layers, couplings, names)
        if made is not None:
            names.add(made.name)
            found.append(made)
            taken = np.union1d(taken, units)
    nodes = {node.name: node for node in model.graph}
    for units, obstacle in stay:
        if not np.isin(units, taken).any():  # else they are parts of what may go whole
            ctx.refuse(PASS_NAME, nodes.get(obstacle.node), f"{kind} stay: {obstacle.reason}")
    return found


def _placed(
    coupled: Coupled, kind: Whole, layers: Sequence[Layer], couplings: Couplings, names: set[str]
) -> Removable | None:
    """A set with the layers it is in; None where it is in none."""
    place = np.full(int(couplings.classes.max()) + 1, -1)
    place[coupled.units] = np.arange(len(coupled.units))[:, None]
    writers, readers = list[Side](), list[Side]()
    for layer in layers:
        value = layer.node.inputs[1]
        if value is None or value not in couplings.constants:
            continue
        rows, cols = axes_of(layer, couplings.constants[value][1])
        if rows is not None and (units := place[couplings.classes[rows.ravel()]]).max() >= 0:
            writers.append(Side(layer, units))
        if cols is not None and layer.groups == 1:
            units = np.tile(
                place[couplings.classes[cols.ravel()]], layer.kernel[0] * layer.kernel[1]
            )
            if units.max() >= 0:
                readers.append(Side(layer, units))
    if not writers and not readers:
        return None
    first, number = (writers or readers)[0].layer.name, 1
    name = first
    while name in names:
        number += 1
        name = f"{first}:{number}"
    return Removable(name, kind, coupled.units, tuple(writers), tuple(readers))


def _heads(model: ir.Model, couplings: Couplings) -> Ids:
    """Classes of what computed products of matrices are many of: heads of attention."""
    found = [couplings.classes[tag].ravel() for tag in _batches(model, couplings)]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *found]))


def _batches(model: ir.Model, couplings: Couplings) -> Iterator[Ids]:
    for node in model.graph:
        if is_op(node, "MatMul") and constant(node.inputs[1]) is None:
            tag = couplings.tags.get(node.outputs[0])
            if tag is not None and max(tag.shape[:-2], default=1) > 1:
                yield tag


__all__ = ["PASS_NAME", "Removable", "Side", "find_removable"]
