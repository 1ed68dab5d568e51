"""Sizes that a model needs to be equal where nothing proves that they are.

TVM gives up on a shape there. Here they are taken to be equal, which every run then checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx_ir as ir

from sparsecc.backends.tvm.load import load

Place = tuple[int, int]
"""Operand and axis."""

_BROADCASTS = (
    *("Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater"),
    *("GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow"),
    *("Sub", "Sum", "Where", "Xor"),
)


def agreed(builder: Any, node: ir.Node, operands: Sequence[Any]) -> list[Any]:
    """The operands of a node, with dimensions that are the same where they have to be."""
    places = _PLACES.get(node.op_type)
    if places is None:
        return list(operands)
    dims = [_dims(operand) for operand in operands]
    if any(each is None for each in dims):
        return list(operands)
    known = [list(each) for each in dims if each is not None]
    analyzer, number = load().sym.Analyzer(), load().tirx.IntImm
    changed: set[int] = set()
    for group in places(node, known):
        ones = [not (isinstance(known[a][b], number) and int(known[a][b]) == 1) for a, b in group]
        rest = [place for place, other in zip(group, ones, strict=True) if other]
        rest.sort(key=lambda place: not isinstance(known[place[0]][place[1]], number))
        for operand, axis in rest[1:]:
            first = known[rest[0][0]][rest[0][1]]
            both = isinstance(known[operand][axis], number) and isinstance(first, number)
            if not both and not analyzer.can_prove_equal(first, known[operand][axis]):
                known[operand][axis] = first
                changed.add(operand)
    relax = load().relax
    return [
        builder.match_cast(operand, relax.TensorType(known[at], operand.ty.dtype))
        if at in changed
        else operand
        for at, operand in enumerate(operands)
    ]


def _dims(operand: Any) -> list[Any] | None:
    shape = getattr(getattr(operand, "ty", None), "shape", None)
    return None if shape is None or not hasattr(shape, "values") else list(shape.values)


def _broadcast(node: ir.Node, dims: list[list[Any]]) -> Iterator[list[Place]]:
    rank = max(len(each) for each in dims)
    for back in range(1, rank + 1):
        yield [(at, len(each) - back) for at, each in enumerate(dims) if back <= len(each)]


def _product(node: ir.Node, dims: list[list[Any]]) -> Iterator[list[Place]]:
    if min(map(len, dims)) < 2:
        return
    yield [(0, len(dims[0]) - 1), (1, len(dims[1]) - 2)]
    yield from _broadcast(node, [each[:-2] for each in dims])


def _joined(node: ir.Node, dims: list[list[Any]]) -> Iterator[list[Place]]:
    rank = len(dims[0])
    for axis in range(rank):
        if axis != node.attributes.get_int("axis", 0) % rank:
            yield [(at, axis) for at in range(len(dims))]


_PLACES: dict[str, Callable[[ir.Node, list[list[Any]]], Iterator[list[Place]]]] = {
    **dict.fromkeys(_BROADCASTS, _broadcast),
    "Concat": _joined,
    "MatMul": _product,
}
"""Groups of dimensions that are equal, or 1 where they broadcast."""
