"""What tensors of whole numbers hold: the arithmetic that exporters write down for shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from sparsecc.passes.edit import constant, is_op
from sparsecc.passes.fuse.terms import Term, Terms, over, times

_MOST = 16
"""Elements: more are data, not sizes."""
_Held = Sequence[Terms | None]
_Rule = Callable[[ir.Node, _Held, _Held], Terms | None]


def constant_terms(value: ir.Value) -> Terms | None:
    """The numbers of a small constant of whole numbers."""
    shape = value.shape
    if shape is None or len(shape) > 1 or any(not isinstance(d, int) or d > _MOST for d in shape):
        return None
    array = constant(value)
    if array is None or not (np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_):
        return None
    return tuple(int(number) for number in array.reshape(-1))


def held_by(node: ir.Node, shapes: _Held, numbers: _Held) -> Terms | None:
    """What the first output of a node holds, where it holds sizes.

    Args:
        node: Any node.
        shapes: The terms of its inputs' dimensions.
        numbers: What its inputs hold.
    """
    rule = _RULES.get(node.op_type) if is_op(node, node.op_type) else None
    rank = node.outputs[0].shape
    if rule is None or (rank is not None and len(rank) > 1):
        return None
    held = rule(node, shapes, numbers)
    return None if held is None or len(held) > _MOST else held


def _shape(node: ir.Node, shapes: _Held, numbers: _Held) -> Terms | None:
    x, read = shapes[0], node.attributes
    return None if x is None else x[read.get_int("start", 0) : read.get_int("end", len(x))]


def _same(node: ir.Node, shapes: _Held, numbers: _Held) -> Terms | None:
    return numbers[0]


def _gather(node: ir.Node, shapes: _Held, numbers: _Held) -> Terms | None:
    x, index = numbers[:2]
    if x is None or index is None or not all(isinstance(at, int) for at in index):
        return None
    places = [int(str(at)) for at in index]
    return tuple(x[at] for at in places) if all(-len(x) <= at < len(x) for at in places) else None


def _slice(node: ir.Node, shapes: _Held, numbers: _Held) -> Terms | None:
    x, *bounds = numbers
    if x is None or len(bounds) < 2 or any(b is None or len(b) != 1 for b in bounds):
        return None
    start, end, _, step = [*(b[0] for b in bounds if b), *([0] * (len(bounds) < 3)), 1][:4]
    if not all(isinstance(number, int) for number in (start, end, step)):
        return None
    return x[int(str(start)) : int(str(end)) : int(str(step))]


def _concat(node: ir.Node, shapes: _Held, numbers: _Held) -> Terms | None:
    known = [part for part in numbers if part is not None]
    return None if len(known) < len(numbers) else tuple(term for part in known for term in part)


def _constant_of_shape(node: ir.Node, shapes: _Held, numbers: _Held) -> Terms | None:
    fill = node.attributes.get_tensor("value", None)
    value = 0 if fill is None else fill.numpy().reshape(-1)[0]
    count = numbers[0]
    if count is None or len(count) != 1 or not isinstance(count[0], int) or count[0] > _MOST:
        return None
    return (int(value),) * count[0] if int(value) == value else None


def _pairwise(meaning: Callable[[Term, Term], Term | None]) -> _Rule:
    def rule(node: ir.Node, shapes: _Held, numbers: _Held) -> Terms | None:
        found = [meaning(a, b) for a, b in _spread(numbers[0], numbers[1])]
        known = tuple(term for term in found if term is not None)
        return known if known and len(known) == len(found) else None

    return rule


def _spread(*parts: Terms | None) -> list[Terms]:
    """Operands side by side, single ones repeated; empty where one is not known."""
    size = max((len(part or ()) for part in parts), default=0)
    if any(part is None or len(part) not in (1, size) for part in parts):
        return []
    return list(zip(*(part * (size // len(part)) for part in parts if part), strict=True))


def _sum(a: Term, b: Term, sign: int) -> Term | None:
    if isinstance(a, int) and isinstance(b, int):
        return a + sign * b
    if sign < 0 and a == b:
        return 0
    return a if b == 0 else None


def _equal(a: Term, b: Term) -> Term | None:
    """Sizes that are not numbers are at least equal to none below zero."""
    if a == b or (isinstance(a, int) and isinstance(b, int)):
        return int(a == b)
    below = any(isinstance(each, int) and each < 0 for each in (a, b))
    return 0 if below else None


def _where(node: ir.Node, shapes: _Held, numbers: _Held) -> Terms | None:
    rows = _spread(*numbers)
    if not rows or not all(isinstance(row[0], int) for row in rows):
        return None
    return tuple(yes if chosen else no for chosen, yes, no in rows)


_RULES: dict[str, _Rule] = {
    "Shape": _shape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Mul": _pairwise(times),
    "Div": _pairwise(over),
    "Add": _pairwise(lambda a, b: _sum(a, b, 1)),
    "Sub": _pairwise(lambda a, b: _sum(a, b, -1)),
    "Equal": _pairwise(_equal),
    "Where": _where,
    **dict.fromkeys(["Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"], _same),
}
