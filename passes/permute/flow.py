"""How labels flow through arithmetic: values that meet element by element, and sums along axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.passes.edit import constant
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.terms import Terms
from sparsecc.passes.permute.labels import MOST, Labels, Tag

IN_PLACE = "it meets a value whose positions stay in place"


@dataclass
class Operand:
    """One of the values that meet.

    Attributes:
        sizes: Its dimensions.
        tag: Its labels; None for a constant, which gets labels where others have some.
        label: Of a constant: axes → tag.
    """

    sizes: Terms
    tag: Tag | None
    label: Callable[[tuple[int, ...]], Tag] | None = None

    def aligned(self, rank: int) -> Operand:
        """The same with dimensions of size one in front."""
        more = rank - len(self.sizes)
        if not more:
            return self
        sizes, label = (1,) * more + self.sizes, self.label
        if label is not None:

            def behind(axes: tuple[int, ...]) -> Tag:
                tag = label(tuple(axis - more for axis in axes))
                return tag.reshape((1,) * more + tag.shape)

            return Operand(sizes, self.tag, behind)
        assert self.tag is not None
        return Operand(sizes, self.tag.reshape((1,) * more + self.tag.shape))

    def varies(self, axis: int) -> bool:
        """Whether the labels differ along an axis."""
        return self.tag is not None and self.tag.shape[axis] > 1


class Flow:
    """The tags of all values so far, and the ways to make more.

    Args:
        labels: What is known of labels; grows.
        shapes: Of the model.

    Attributes:
        tags: Of the values so far.
    """

    def __init__(self, labels: Labels, shapes: Shapes) -> None:
        self.labels = labels
        self.shapes = shapes
        self.tags: dict[ir.Value, Tag] = {}

    def sizes(self, value: ir.Value) -> Terms | None:
        """The dimensions of a value; None where not even the rank is known."""
        return self.shapes.terms(value)

    def tag(self, value: ir.Value) -> Tag:
        """The labels of a value; a constant gets them along its last axis, if that is all it has.

        A class token, say, is a vector that is spread before it meets others.
        """
        if value not in self.tags:
            self.tags[value] = self._first(value)
        return self.tags[value]

    def put(self, value: ir.Value, tag: Tag) -> None:
        """Note the tag of a value; the labels stay where it does not fit its rank."""
        sizes = self.sizes(value)
        fits = sizes is not None and len(sizes) == tag.ndim
        fits = fits and all(n in (1, s) for n, s in zip(tag.shape, sizes or (), strict=True))
        if not fits:
            self.labels.stay(tag, value.name or "", "its shape is not known")
            tag = self.nothing(value)
        self.tags[value] = tag
        if tag.size > 1:
            self.labels.tags.append(tag)

    def nothing(self, value: ir.Value) -> Tag:
        """The tag of a value all of whose positions stay."""
        return np.zeros((1,) * len(self.sizes(value) or ()), np.int64)

    def operand(self, value: ir.Value, node: ir.Node) -> Operand:
        """A value that meets others."""
        sizes = self.sizes(value) or ()
        if value not in self.tags and is_weight(value):
            seen = tuple(int(str(size)) for size in sizes)
            name = node.name or ""
            return Operand(sizes, None, lambda axes: self.labels.constant(value, seen, axes, name))
        return Operand(sizes, self.tag(value))

    def meet(self, node: ir.Node, operands: Sequence[Operand]) -> Tag:
        """The tag of what is computed element by element from values that broadcast.

        Where a value is one wide along an axis and others have labels there, theirs are nested in
        its labels: they share its elements. Where a value has labels along an axis and another
        has positions that stay, they stay too.
        """
        name = node.name or ""
        rank = max(len(operand.sizes) for operand in operands)
        aligned = [operand.aligned(rank) for operand in operands]
        self._settle(name, aligned)
        shape = _merged(aligned)
        for operand in aligned:
            if operand.tag is None:
                operand.tag = self._labelled(operand, shape, name)
        self._settle(name, aligned)  # a constant that is read in two ways stays in place
        shape = _merged(aligned)
        if math.prod(shape) > MOST:
            for operand in aligned:
                self._drop(operand, name, "too many combinations of channels")
            return np.zeros((1,) * rank, np.int64)
        tags = [operand.tag for operand in aligned if operand.tag is not None]
        full = next((tag for tag in tags if tag.shape == shape and tag.any()), None)
        full = self.labels.fresh(shape) if full is None else full
        for tag in tags:
            if tag is not full and tag.shape == shape:
                self.labels.join(full, tag, name)
            elif tag.shape != shape:
                self.labels.nest(full, tag)
        return full

    def add_up(self, tag: Tag, axes: Sequence[int]) -> Tag:
        """The tag of what is left, with dimensions of size one, where values are summed up."""
        axes = [axis for axis in axes if tag.shape[axis] > 1]
        if not axes:
            return tag
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(tag.shape))
        left = self.labels.fresh(shape)
        self.labels.nest(tag, left)
        return left

    def only_along(self, tag: Tag, axes: Sequence[int], node: ir.Node, reason: str) -> Tag:
        """The tag if it differs along these axes alone, else labels stay and nothing is left."""
        if all(size == 1 or axis in axes for axis, size in enumerate(tag.shape)):
            return tag
        self.labels.stay(tag, node.name or "", reason)
        return np.zeros((1,) * tag.ndim, np.int64)

    def _first(self, value: ir.Value) -> Tag:
        sizes = self.sizes(value) or ()
        long = [axis for axis, size in enumerate(sizes) if size != 1]
        if is_weight(value) and len(long) == 1 and _is_float(value):
            seen = tuple(int(str(size)) for size in sizes)
            return self.labels.constant(value, seen, tuple(long), "")
        return np.zeros((1,) * len(sizes), np.int64)

    def _settle(self, name: str, operands: Sequence[Operand]) -> None:
        """Along each axis all values have labels that are not one wide there, or none has."""
        axes = range(len(operands[0].sizes))
        while True:
            held = [
                operand
                for axis in axes
                if any(operand.varies(axis) for operand in operands)
                and any(
                    operand.sizes[axis] != 1
                    and operand.tag is not None
                    and not operand.varies(axis)
                    for operand in operands
                )
                for operand in operands
                if operand.varies(axis)
            ]
            if not held:
                return
            for operand in held:
                self._drop(operand, name, IN_PLACE)

    def _drop(self, operand: Operand, name: str, reason: str) -> None:
        assert operand.tag is not None
        self.labels.stay(operand.tag, name, reason)
        operand.tag = np.zeros((1,) * operand.tag.ndim, np.int64)

    def _labelled(self, operand: Operand, shape: tuple[int, ...], name: str) -> Tag:
        """Labels of a constant where the others have some, if it has elements there."""
        axes = tuple(
            axis for axis, size in enumerate(shape) if size > 1 and operand.sizes[axis] != 1
        )
        assert operand.label is not None
        return operand.label(axes) if axes else np.zeros((1,) * len(operand.sizes), np.int64)


def is_weight(value: ir.Value) -> bool:
    """Whether a value is an initializer that may be rewritten."""
    return value.is_initializer() and not value.is_graph_input() and constant(value) is not None


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _merged(operands: Sequence[Operand]) -> tuple[int, ...]:
    tags = [operand.tag for operand in operands if operand.tag is not None]
    return np.broadcast_shapes(*(tag.shape for tag in tags))


__all__ = ["IN_PLACE", "Flow", "Operand", "is_weight"]
