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


Pair = tuple[Any, Any]


def agreed(
    builder: Any, node: ir.Node, operands: Sequence[Any], variables: Sequence[Any], same: str = ""
) -> tuple[list[Any], list[Pair]]:
    """The operands of a node, with dimensions that are the same where they have to be.

    Args:
        builder: What is built.
        node: A node of standard ops.
        operands: Of the node.
        variables: Sizes: none is negative.
        same: Name of a function that copies a tensor where its sizes are those of the copy.

    Returns:
        Operands, and pairs of sizes that every run must find equal.
    """
    places = _PLACES.get(node.op_type)
    dims = [_dims(operand) for operand in operands]
    if places is None or any(each is None for each in dims):
        return list(operands), []
    known = [list(each) for each in dims if each is not None]
    tvm, pairs, changed = load(), [], set()
    analyzer = tvm.sym.Analyzer()
    for variable in variables:
        analyzer.bind(variable, tvm.ir.Range(0, _MOST))
    for group in places(node, known):
        spreads = node.op_type != "Concat"  # where a 1 is any size
        rest = [place for place in group if not (spreads and _is_number(_of(known, place), 1))]
        rest.sort(key=lambda place: not _is_number(known[place[0]][place[1]]))
        for at, axis in rest[1:]:
            first, other = known[rest[0][0]][rest[0][1]], known[at][axis]
            if not _is_number(other) and not analyzer.can_prove_equal(first, other):
                pairs.append((first, other))
                known[at][axis] = first
                changed.add(at)
    made = [
        _seen(builder, each, known[at], same) if at in changed else each
        for at, each in enumerate(operands)
    ]
    return made, pairs


def _of(dims: Sequence[Sequence[Any]], place: Place) -> Any:
    return dims[place[0]][place[1]]


def _is_number(dim: Any, number: int | None = None) -> bool:
    known = isinstance(dim, load().tirx.IntImm)
    return known and (number is None or int(dim) == number)


def _seen(builder: Any, operand: Any, dims: Sequence[Any], function: str) -> Any:
    """The same tensor, by other expressions for its dimensions."""
    te, relax = load().te, load().relax
    if function:
        kind = relax.TensorType(list(dims), operand.ty.dtype)
        return builder.emit(relax.call_dps_packed(function, relax.Tuple([operand]), kind))

    def same(x: Any, shape: Sequence[Any]) -> Any:
        return te.compute(list(shape), lambda *at: x(*at), name="same")

    return builder.emit_te(same, operand, list(dims), primfunc_attrs={"op_pattern": _OPAQUE})


_MOST = 1 << 40
_OPAQUE = 8
"""TVM's number for a function that it fuses with nothing: it would find the sizes different."""


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
