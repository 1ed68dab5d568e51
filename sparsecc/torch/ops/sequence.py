"""Sequences of tensors, as Python lists; optional values are the value itself, or None."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsecc.torch.ops.table import Function, NodeView, Op, as_list, plain

Sequence = list[Tensor]


def _construct(*tensors: Tensor) -> Sequence:
    return list(tensors)


def _empty(node: NodeView) -> Function:
    node.ignore("dtype")
    return list


def _insert(sequence: Sequence, tensor: Tensor, place: Tensor | None = None) -> Sequence:
    at = len(sequence) if place is None else int(place)
    return [*sequence[:at], tensor, *sequence[at:]]


def _erase(sequence: Sequence, place: Tensor | None = None) -> Sequence:
    at = (-1 if place is None else int(place)) % len(sequence)
    return sequence[:at] + sequence[at + 1 :]


def _at(sequence: Sequence, place: Tensor) -> Tensor:
    return sequence[int(place)]


def _length(sequence: Sequence) -> Tensor:
    return torch.tensor(len(sequence))


def _split(node: NodeView) -> Function:
    axis, keep = node.get("axis", 0), node.get("keepdims", 1)

    def split(x: Tensor, sizes: Tensor | None = None) -> Sequence:
        if sizes is None:
            return list(x.split(1, axis) if keep else x.unbind(axis))
        return list(x.split(as_list(sizes) if sizes.dim() else int(sizes), axis))

    return split


def _concat(node: NodeView) -> Function:
    axis = node.get("axis")
    join = torch.stack if node.get("new_axis", 0) else torch.cat
    return lambda sequence: join(sequence, axis)


def _map(node: NodeView) -> Function:
    node.ignore("body")
    body, count = node.bodies["body"], len(node.node.inputs)

    def mapped(*inputs: Any) -> Any:
        own, extras = inputs[:count], inputs[count:]
        rows = [
            body(tuple(x[at] if isinstance(x, list) else x for x in own), extras)
            for at in range(len(own[0]))
        ]
        results = [list(column) for column in zip(*rows, strict=True)]
        return results[0] if len(results) == 1 else tuple(results)

    return mapped


def _optional(node: NodeView) -> Function:
    node.ignore("type")
    return lambda value=None: value


def _element(value: Any) -> Any:
    if value is None:
        raise ValueError("the optional value is empty")
    return value


def _has_element(value: Any = None) -> Tensor:
    return torch.tensor(value is not None)


OPS: dict[str, Op] = {
    "ConcatFromSequence": Op(_concat),
    "Optional": Op(_optional),
    "OptionalGetElement": Op(plain(_element)),
    "OptionalHasElement": Op(plain(_has_element)),
    "SequenceAt": Op(plain(_at), host=(1,)),
    "SequenceConstruct": Op(plain(_construct)),
    "SequenceEmpty": Op(_empty),
    "SequenceErase": Op(plain(_erase), host=(1,)),
    "SequenceInsert": Op(plain(_insert), host=(2,)),
    "SequenceLength": Op(plain(_length)),
    "SequenceMap": Op(_map),
    "SplitToSequence": Op(_split, host=(1,)),
}
