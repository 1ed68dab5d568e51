"""Labels of channels: a number for every position that could move, and what must hold for them.

A *tag* says which label each element of a value has: an array of the value's rank whose dimensions
are those of the value, or one where positions stay in place. Label 0 stays in place too, and every
other label is in a tag at most once.
A permutation of labels is allowed if it keeps what is noted here: labels that are *joined* are one
channel; a label *nested* in others may go only where they go (a feature in its head, a channel in
its group); labels that *stay* do not move at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Tag = NDArray[np.int64]

STAYS = 0
"""The label of what stays in place."""
MOST = 1 << 20
"""Elements of a tag beyond which its channels are left in place."""


@dataclass
class Labels:
    """What is known of all labels of a model.

    Attributes:
        count: Labels given out so far, :data:`STAYS` included.
        joined: Pairs of label arrays that are the same channels.
        nested: Label arrays: children, what they are nested in, and which of its places each takes
            (all 0 where places do not differ); one triple per reason.
        fixed: Labels that stay, with the node that keeps them and why.
        tags: Every tag of a value, each once.
        constants: Initializer → the shape it is seen with, and the tags of it.
        sealed: Initializers that must stay as they are.
    """

    count: int = 1
    joined: list[tuple[Tag, Tag]] = field(default_factory=list)
    nested: list[tuple[Tag, Tag, Tag]] = field(default_factory=list)
    fixed: list[tuple[Tag, str, str]] = field(default_factory=list)
    tags: list[Tag] = field(default_factory=list)
    constants: dict[ir.Value, tuple[tuple[int, ...], list[Tag]]] = field(default_factory=dict)
    sealed: set[ir.Value] = field(default_factory=set)

    def fresh(self, shape: tuple[int, ...]) -> Tag:
        """New labels; a single element gets none, there is nothing to move it to."""
        size = math.prod(shape)
        if size <= 1:
            return np.zeros(shape, np.int64)
        made = np.arange(self.count, self.count + size, dtype=np.int64).reshape(shape)
        self.count += size
        self.tags.append(made)
        return made

    def join(self, one: Tag, other: Tag, node: str) -> None:
        """Labels of two tags of one shape are the same channels."""
        both = (one != STAYS) & (other != STAYS)
        self.joined.append((one[both], other[both]))
        lone = (one == STAYS) != (other == STAYS)
        if lone.any():
            met = np.maximum(one, other)[lone]
            self.stay(met, node, "it meets channels that stay in place")

    def nest(self, children: Tag, parents: Tag, places: Tag | None = None) -> None:
        """Labels go only where those that they are nested in go, and to the same place there."""
        parents = np.broadcast_to(parents, children.shape)
        places = np.broadcast_to(0 if places is None else places, children.shape)
        both = (children != STAYS) & (parents != STAYS)
        if both.any():
            self.nested.append((children[both], parents[both], places[both]))

    def stay(self, labels: Tag, node: str, reason: str) -> None:
        """Labels stay in place."""
        found = labels[labels != STAYS]
        if found.size:
            self.fixed.append((np.unique(found), node, reason))

    def seal(self, value: ir.Value, node: str, reason: str) -> None:
        """An initializer stays as it is along all axes."""
        self.sealed.add(value)
        for tag in self.constants.get(value, ((), []))[1]:
            self.stay(tag, node, reason)

    def constant(
        self,
        value: ir.Value,
        seen: tuple[int, ...],
        axes: tuple[int, ...],
        node: str,
        shared: tuple[int, ...] = (),
    ) -> Tag:
        """Labels of an initializer along some axes, always the same ones.

        Args:
            value: The initializer.
            seen: The shape that its elements are seen with.
            axes: Which axes of that shape.
            node: Who reads it.
            shared: Axes that other tags may have too, because nesting makes them agree.

        Returns:
            A tag of rank ``len(seen)``.
        """
        known, tags = self.constants.setdefault(value, (seen, []))
        shape = tuple(size if axis in axes else 1 for axis, size in enumerate(seen))
        for tag in tags:
            if known == seen and tag.shape == shape and value not in self.sealed:
                return tag
        own = set(axes) - set(shared)
        mixed = any(own & {at for at, n in enumerate(tag.shape) if n > 1} for tag in tags)
        if known != seen or mixed:
            self.seal(value, node, "its weight is read in two ways")
        if value in self.sealed:
            return np.zeros((1,) * len(seen), np.int64)
        tags.append(self.fresh(shape))
        return tags[-1]
