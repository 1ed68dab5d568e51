"""What tensors hold that are computed from positions alone, whatever the lengths are.

Exporters write a causal mask as comparisons of counted queries and keys, ``tril``, ``triu``, or a
part of a larger constant. A few forms of such tensors are known, and what ops make of them; the
form of a tensor is found from its node up. Nothing is tried out at some lengths: a form holds at
all of them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes.attention.forms import (
    COMPARISONS,
    KEYS,
    QUERIES,
    Choice,
    Distance,
    Form,
    Position,
    Tuples,
    axes_of,
    combined,
    compared,
    flags,
    mirrored,
    total,
    uniform,
)
from sparsecc.passes.attention.rules import Rule, rule_of
from sparsecc.passes.edit import constant, is_op
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.terms import Terms


class Structure:
    """Knows the forms of the values of one model."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._known: dict[ir.Value, Form | None] = {}

    def form(self, value: ir.Value | None) -> Form | None:
        """The form of a value; None where it has none that is known."""
        if value is None:
            return None
        waiting = [value]
        while waiting:  # a model may be deeper than Python's stack
            at = waiting[-1]
            above = [each for each in self._above(at) if each not in self._known]
            if above and at not in self._known:
                self._known[at] = None  # what is asked for while it is being found has no form
                waiting += above
                continue
            waiting.pop()
            self._known[at] = self._found(at)
        return self._known[value]

    def _above(self, value: ir.Value) -> list[ir.Value]:
        node = value.producer()
        if node is None or not is_op(node, *_RULES) or constant(value) is not None:
            return []
        return [each for each in node.inputs if each is not None]

    def _found(self, value: ir.Value) -> Form | None:
        array, node = constant(value), value.producer()
        if array is not None:
            return _of_constant(array)
        if node is None or not is_op(node, *_RULES):
            return None
        forms = [None if each is None else self._known.get(each) for each in node.inputs]
        found = _RULES[node.op_type](node, forms, self._shapes)
        if found is None or node.op_type in _MOVES:
            return found
        spreads = all(self._spreads(x, f, value) for x, f in zip(node.inputs, forms, strict=True))
        return found if spreads else None

    def _spreads(self, value: ir.Value | None, form: Form | None, into: ir.Value) -> bool:
        """Whether a value is not repeated along an axis that its form counts along."""
        if value is None or form is None:
            return True
        have, want = self._shapes.terms(value), self._shapes.terms(into)
        if have is None or want is None:
            return False
        return all(
            axis <= len(have) and axis <= len(want) and have[-axis] == want[-axis]
            for axis in axes_of(form)
        )


def _of_constant(array: NDArray[Any]) -> Form | None:
    if not array.size or array.dtype == object:
        return None
    low, high = array.min(), array.max()
    if low == high:
        return uniform(float(low))
    long = [axis for axis, size in enumerate(array.shape) if size != 1]
    if len(long) == 1 and np.issubdtype(array.dtype, np.integer):
        row = array.reshape(-1)
        if np.array_equal(row, np.arange(len(row)) + row[0]):
            return Position(array.ndim - long[0], int(row[0]))
    if array.ndim < QUERIES or any(size != 1 for size in array.shape[:-QUERIES]):
        return None
    table = array.reshape(array.shape[-QUERIES:])
    apart = _distances(table) if np.issubdtype(array.dtype, np.signedinteger) else None
    if apart is not None:
        return apart
    for inside, outside in ((high, low), (low, high)):
        chosen = table == inside
        if not np.all(chosen | (table == outside)):
            return None
        rule = rule_of(chosen)
        if rule is not None:
            return Choice(rule, float(inside), float(outside))
    return None


def _distances(table: NDArray[Any]) -> Distance | None:
    """Distances of keys from queries, in whole numbers."""
    corner, keys = int(table[0, 0]), np.arange(table.shape[1])
    sign = int(table[0, 1]) - corner if len(keys) > 1 else corner - int(table[1, 0])
    absolute = corner == 0 and sign == 1 and len(table) > 1 and int(table[1, 0]) == 1
    if sign not in (1, -1):
        return None
    for query, row in enumerate(table):
        distances = keys - query
        want = np.abs(distances) if absolute else corner + sign * distances
        if not np.array_equal(row, want):
            return None
    return Distance(sign, corner, absolute)


_Forms = Sequence[Form | None]


def _range(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
    start, _, step = forms
    if not (isinstance(start, Choice) and isinstance(step, Choice)):
        return None
    whole = start.is_uniform and step.is_uniform and step.inside == 1
    return Position(KEYS, int(start.inside)) if whole and start.inside.is_integer() else None


def _same(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
    return forms[0]


def _cast(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
    form = forms[0]
    if isinstance(form, Choice) and node.attributes.get_int("to", 0) == ir.DataType.BOOL:
        return replace(form, inside=float(form.inside != 0), outside=float(form.outside != 0))
    return form


def _slice(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
    """A part that starts where the whole does, or does so in an axis that does not count."""
    form, starts = forms[0], shapes.numbers(node.inputs[1])
    axes = shapes.numbers(node.inputs[3]) if len(node.inputs) > 3 else None
    steps = shapes.numbers(node.inputs[4]) if len(node.inputs) > 4 else (1,)
    terms = shapes.terms(node.outputs[0])
    if form is None or isinstance(form, Tuples) or terms is None:
        return None
    if starts is None or axes is None or len(starts) != len(axes) or set(steps or ()) != {1}:
        return None
    moved = [axis for start, axis in zip(starts, axes, strict=True) if start != 0]
    if not all(isinstance(axis, int) for axis in moved):
        return None
    counted = {-int(str(axis)) % len(terms) or len(terms) for axis in moved}
    return None if counted & set(axes_of(form)) else form


def _moved(form: Form | None, before: Terms | None, after: Terms | None) -> Form | None:
    """The form of the same numbers in other dimensions, where only ones come or go."""
    if form is None or before is None or after is None or isinstance(form, Tuples):
        return None
    if isinstance(form, Choice) and form.is_uniform:
        return form
    if [dim for dim in before if dim != 1] != [dim for dim in after if dim != 1]:
        return None
    if isinstance(form, Position):
        if before[-form.axis] == 1:
            return uniform(form.offset)
        behind = sum(dim != 1 for dim in before[len(before) - form.axis + 1 :])
        long = [at for at, dim in enumerate(after) if dim != 1]
        return Position(len(after) - long[len(long) - 1 - behind], form.offset)
    return form if before[-QUERIES:] == after[-QUERIES:] else None


def _reshape(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
    value = node.inputs[0]
    assert value is not None  # the first input of these is there
    return _moved(forms[0], shapes.terms(value), shapes.terms(node.outputs[0]))


def _trilu(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
    form = forms[0]
    shift = shapes.numbers(node.inputs[1]) if len(node.inputs) > 1 else (0,)
    if not (isinstance(form, Choice) and form.is_uniform) or shift is None:
        return None
    if len(shift) != 1 or not isinstance(shift[0], int):
        return None
    upper = node.attributes.get_int("upper", 1)
    rule = Rule(left=-shift[0]) if upper else Rule(right=shift[0])
    return Choice(rule, form.inside, 0.0)


def _fill(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
    fill = node.attributes.get_tensor("value", None)
    return uniform(0.0 if fill is None else float(fill.numpy().reshape(-1)[0]))


def _abs(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
    form = forms[0]
    return replace(form, absolute=True) if isinstance(form, Distance) else None


def _arithmetic(what: Callable[[Any, Any], Any], sign: int = 0) -> _Rule:
    def rule(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
        a, b = forms
        found = total(a, b, sign) if sign else None
        return found or combined(a, b, what)

    return rule


def _logical(both: bool) -> _Rule:
    def rule(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
        one, other = (flags(form) for form in forms)
        if one is None or other is None:
            return None
        for each, rest in ((one, other), (other, one)):
            if each.is_uniform:
                return rest if bool(each.inside) == both else uniform(float(not both))
        found = one.rule & other.rule if both else one.rule | other.rule
        return None if found is None else Choice(found, 1.0, 0.0)

    return rule


def _not(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
    form = forms[0]
    if not isinstance(form, Choice):
        return None
    return replace(form, inside=float(not form.inside), outside=float(not form.outside))


def _where(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
    choices = [form for form in forms if isinstance(form, Choice)]
    if len(choices) != len(forms):
        return None
    chosen, yes, no = choices
    if chosen.is_uniform:
        return yes if chosen.inside else no
    if not (yes.is_uniform and no.is_uniform):
        return None
    values = [yes.inside if flag else no.inside for flag in (chosen.inside, chosen.outside)]
    return Choice(chosen.rule, *values)


def _gather_nd(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
    """Entries at positions, of positions: the mask functions of transformers read ids so."""
    data, at = forms
    if isinstance(data, Choice) and data.is_uniform:
        return data
    if not isinstance(data, Position) or data.axis != KEYS or not isinstance(at, Tuples):
        return None
    last, value = at.parts[-1], node.inputs[0]
    terms = None if value is None else shapes.terms(value)
    whole = terms is not None and len(terms) == len(at.parts)
    batched = node.attributes.get_int("batch_dims", 0) != 0
    if not whole or batched or not isinstance(last, Position):
        return None
    fits = last.offset >= 0 and last.axis > KEYS
    return Position(last.axis - 1, last.offset + data.offset) if fits else None


def _concat(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
    terms = shapes.terms(node.outputs[0])
    parts = [None if value is None else shapes.terms(value) for value in node.inputs]
    if terms is None or node.attributes.get_int("axis", 0) not in (-1, len(terms) - 1):
        return None
    if any(not part or part[-1] != 1 for part in parts):
        return None
    return Tuples(tuple(forms))


def _compare(node: ir.Node, forms: _Forms, shapes: Shapes) -> Form | None:
    a, b = forms
    if isinstance(a, Choice) and isinstance(b, Choice):
        return combined(a, b, COMPARISONS[node.op_type])
    if isinstance(a, Choice):
        return mirrored(node.op_type, a, b)
    return compared(node.op_type, a, b)


_Rule = Callable[[ir.Node, _Forms, Shapes], Form | None]
_MOVES = ("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Slice", "GatherND", "Concat", "Range")
"""Ops after which axes are others, or a size is no longer what it was."""
_RULES: dict[str, _Rule] = {
    "Range": _range,
    "ConstantOfShape": _fill,
    "GatherND": _gather_nd,
    "Concat": _concat,
    "Slice": _slice,
    "Trilu": _trilu,
    "Cast": _cast,
    "Abs": _abs,
    "Not": _not,
    "Where": _where,
    "And": _logical(True),
    "Or": _logical(False),
    "Add": _arithmetic(operator.add, 1),
    "Sub": _arithmetic(operator.sub, -1),
    "Mul": _arithmetic(operator.mul),
    "Div": _arithmetic(operator.truediv),
    **dict.fromkeys(["Identity", "Expand"], _same),
    **dict.fromkeys(["Reshape", "Unsqueeze", "Squeeze", "Flatten"], _reshape),
    **dict.fromkeys(COMPARISONS, _compare),
}
