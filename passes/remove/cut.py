"""Cutting coupled channels out of a model, or saying what stands against it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes.edit import constant, new_initializer
from sparsecc.passes.permute.couplings import Couplings, Ids
from sparsecc.passes.permute.labels import Tag
from sparsecc.passes.remove.rules import Edits, Keep, counts, rule_of

RAGGED = "parts of different sizes would be left"
ALL = "nothing would be left"


@dataclass(frozen=True)
class Obstacle:
    """Why channels cannot go, and the node that stands against it ("" where it is none)."""

    node: str
    reason: str


@dataclass(frozen=True)
class Cut:
    """What has to change for channels to go.

    Attributes:
        keeps: Values that are cut, initializers among them → the positions kept along each axis.
        edits: Node → its new inputs and attributes.
    """

    keeps: dict[ir.Value, Keep]
    edits: dict[ir.Node, Edits]


class Reach:
    """Where the classes of a model are found.

    Args:
        couplings: Of the model.
    """

    def __init__(self, couplings: Couplings) -> None:
        self.couplings = couplings
        self._tags: dict[ir.Value, tuple[Tag, ...]] = {
            **{value: (tag,) for value, tag in couplings.tags.items()},
            **{value: tags for value, (_, tags) in couplings.constants.items()},
        }
        self._places = defaultdict[int, list[ir.Value]](list)
        for value, tags in self._tags.items():
            for each in np.unique(np.concatenate([couplings.classes[tag.ravel()] for tag in tags])):
                self._places[int(each)].append(value)

    def cut(self, gone: Ids) -> Cut | Obstacle:
        """What it takes to cut some classes out."""
        lost = np.zeros(int(self.couplings.classes.max()) + 1, bool)
        lost[gone] = True
        keeps = dict[ir.Value, Keep]()
        touched = dict.fromkeys(value for each in gone.ravel() for value in self._places[int(each)])
        for value in touched:
            keep = self._kept(value, lost)
            if isinstance(keep, Obstacle):
                return keep
            keeps[value] = keep
        edits = dict[ir.Node, Edits]()
        for node in dict.fromkeys(_around(touched)):
            found = rule_of(node)(node, keeps)
            if isinstance(found, str):
                return Obstacle(node.name or "", found)
            if found:
                edits[node] = found
        return Cut(keeps, edits)

    def _kept(self, value: ir.Value, lost: NDArray[np.bool_]) -> Keep | Obstacle:
        """Which positions of a value are kept along each axis."""
        tags = self._tags[value]
        keep = [np.ones(1, bool)] * tags[0].ndim
        for tag in tags:
            gone = lost[self.couplings.classes[tag]]
            whole = np.zeros((1,) * gone.ndim, bool)
            for axis in range(gone.ndim):
                others = tuple(at for at in range(gone.ndim) if at != axis)
                here = gone.all(axis=others, keepdims=True)
                whole = whole | here
                if gone.shape[axis] > 1:
                    keep[axis] = keep[axis] & ~here.ravel()
            where = value.producer()
            name = (where.name if where else value.name) or ""
            if gone.all():
                return Obstacle(name, ALL)
            if not np.array_equal(np.broadcast_to(whole, gone.shape), gone):
                return Obstacle(name, RAGGED)
        return tuple(keep)


def carry_out(cut: Cut, couplings: Couplings) -> None:
    """Cut channels out of a model in place: weights, constants, attributes and shapes."""
    for node, edits in cut.edits.items():
        for at, new in edits.items():
            _edit(node, at, new)
    for value, keep in cut.keeps.items():
        if value in couplings.constants:
            _shrink(value, couplings.constants[value][0], keep)
        elif value.shape is not None:
            sizes = counts(keep)
            value.shape = ir.Shape([sizes.get(at, dim) for at, dim in enumerate(value.shape)])


def _around(values: Sequence[ir.Value] | dict[ir.Value, None]) -> Iterator[ir.Node]:
    """The nodes that make or read values."""
    for value in values:
        if (producer := value.producer()) is not None:
            yield producer
        yield from value.consumers()


def _edit(node: ir.Node, at: int | str, new: Any) -> None:
    if isinstance(at, str):
        node.attributes.pop(at, None)
        if new is not None:
            kind = ir.AttrInt64 if isinstance(new, int) else ir.AttrInt64s
            node.attributes[at] = kind(at, new)
        return
    if at >= len(node.inputs):
        node.resize_inputs(at + 1)
    node.replace_input_with(at, new_initializer(node, f"{node.name}.{at}", new))


def _shrink(value: ir.Value, seen: tuple[int, ...], keep: Keep) -> None:
    """Take positions out of an initializer that is seen with a shape of maybe one axis more."""
    array = constant(value)
    assert array is not None
    rank, smaller = array.ndim, array.reshape(seen)
    for axis, each in enumerate(keep):
        if not each.all():
            smaller = smaller.compress(each, axis)
    if smaller.ndim > rank:  # the groups of a convolution
        smaller = smaller.reshape(-1, *smaller.shape[2:])
    value.const_value = ir.tensor(np.ascontiguousarray(smaller), name=value.name)
    value.shape = ir.Shape(smaller.shape)


__all__ = ["Cut", "Obstacle", "Reach", "carry_out"]
