"""Queries, keys and values of an attention as [batch, heads, tokens, features]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sparsecc.passes.edit import is_op
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.terms import Term, times
from sparsecc.passes.fuse.views import REPEATS, VIEWS, Dim, Trace, data_of, factor_of, joined, trace
from sparsecc.passes.tape import Tape

_RANK = 4
_AS_IS, _TURNED = (0, 1, 2, 3), (0, 1, 3, 2)


@dataclass(frozen=True)
class Heads:
    """Where heads are to be read.

    Attributes:
        value: Of four dimensions; of three with `split`.
        order: How its dimensions are to be turned.
        scale: What the heads are, divided by what is there.
        dims: Terms of batch, heads, tokens and features.
        split: Batch and heads are one dimension of `value`, of so many heads; 0 where not.
    """

    value: ir.Value
    order: tuple[int, ...]
    scale: float
    dims: tuple[Term, ...]
    split: int = 0

    def put(self, tape: Tape) -> ir.Value:
        """The heads, by nodes on a tape where they are not there yet."""
        value, rank = self.value, _RANK - bool(self.split)
        if self.order != tuple(range(rank)):
            value = tape.op("Transpose", value, perm=self.order)
        if self.split:
            apart = tape.op("Unsqueeze", value, tape.ints(1))
            value = tape.op("Reshape", apart, tape.ints(-1, self.split, 0, 0))
        return value


def heads_of(
    value: ir.Value | None,
    shapes: Shapes,
    *,
    turned: bool = False,
    shared: bool = True,
    scales: bool = True,
) -> Heads | str:
    """The heads that an operand of a product is, read as far up as that changes nothing.

    Args:
        value: [batch, heads, tokens, features], or batch and heads in one.
        shapes: Of the model.
        turned: Whether tokens and features are the other way round.
        shared: Whether heads that are repeated for several of the queries' are taken once.
        scales: Whether it may be read above a product by a number.
    """
    terms = None if value is None else shapes.terms(value)
    if value is None or terms is None or len(terms) not in (_RANK - 1, _RANK):
        return "attention of other than [batch, heads, tokens, features]"
    order = _TURNED if turned else _AS_IS
    way = trace(value, shapes, scales=True, repeats=True)
    dims = None if way is None else _split(way)
    if way is not None and dims is not None:
        found = _upmost(value, way, [dims[at] for at in order], shapes, shared, scales)
        if found is not None:
            return found
    if len(terms) == _RANK:
        return Heads(value, order, 1.0, tuple(terms[at] for at in order))
    heads = None if dims is None else times(*(size for size, _ in dims[1]))
    if dims is None or not isinstance(heads, int):
        return "batch and heads in one dimension, and nothing says how many heads"
    place = (0, 2, 1) if turned else (0, 1, 2)
    sizes = (times(*(size for size, _ in dims[0])), heads, *(terms[at] for at in place[1:]))
    return Heads(value, place, 1.0, sizes, heads)


def _split(way: Trace) -> list[Dim] | None:
    """Dimensions, four of them: the first of three is batch and heads, by what it was made of."""
    dims = [joined(dim) for dim in way.view.dims]
    if len(dims) == _RANK:
        return dims
    both = way.view.dims[0]
    return [both[:-1], both[-1:], *dims[1:]]


def _upmost(
    value: ir.Value,
    way: Trace,
    dims: Sequence[Dim],
    shapes: Shapes,
    shared: bool,
    scales: bool,
) -> Heads | None:
    """The value farthest up that has these dimensions, best in this order."""
    wanted = [joined(dim) for dim in dims]
    if shared:
        wanted[1] = tuple(atom for atom in wanted[1][:-1]) if _repeats(wanted[1]) else wanted[1]
    found: Heads | None = None
    for each in _above(value):
        there = trace(each, shapes, scales=True, repeats=True)
        terms = shapes.terms(each)
        if there is None or terms is None or not there.scale:
            continue
        if there.scale != way.scale and not scales:
            continue
        view = there.view
        order = _order([joined(dim) for dim in view.dims], wanted)
        if order is None or (view.source, view.offset) != (way.view.source, way.view.offset):
            continue
        if found is None or order == _AS_IS or found.order != _AS_IS:
            sizes = tuple(terms[at] for at in order)
            found = Heads(each, order, way.scale / there.scale, sizes)
    return found


def _repeats(heads: Dim) -> bool:
    """Whether every head comes several times in a row."""
    return bool(heads) and heads[-1][1] == 0 and len(heads) <= 2


def _order(have: Sequence[Dim], wanted: Sequence[Dim]) -> tuple[int, ...] | None:
    """Where each wanted dimension is among those there."""
    left, order = list(enumerate(have)), []
    if len(have) != len(wanted):
        return None
    for dim in wanted:
        at = next((at for at, each in enumerate(left) if each[1] == dim), None)
        if at is None:
            return None
        order.append(left.pop(at)[0])
    return tuple(order)


def _above(value: ir.Value) -> Iterator[ir.Value]:
    """A value and those that it is a view of, or a multiple."""
    at: ir.Value | None = value
    while at is not None:
        yield at
        node = at.producer()
        seen = node is not None and (is_op(node, *VIEWS, *REPEATS) or factor_of(node))
        at = data_of(node) if node is not None and seen else None
