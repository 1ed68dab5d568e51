"""What is known of a mask before the model runs: rules that hold at all lengths, and the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes.attention.forms import KEYS, QUERIES, Choice, axes_of
from sparsecc.passes.attention.match import MASKED, Term
from sparsecc.passes.attention.rules import Rule
from sparsecc.passes.attention.structure import Structure
from sparsecc.passes.edit import constant, is_op, scalar
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.terms import Term as Size
from sparsecc.passes.tape import Tape


@dataclass(frozen=True)
class Known:
    """A mask taken apart without numbers.

    Attributes:
        rule: Keys outside of it are masked at any length.
        rest: What masks or is added besides.
    """

    rule: Rule
    rest: tuple[Term, ...] = ()


class Masks:
    """Takes the masks of one attention apart.

    Args:
        structure: Of the model.
        shapes: Of the model.
        queries: How many.
        keys: How many.
    """

    def __init__(self, structure: Structure, shapes: Shapes, queries: Size, keys: Size) -> None:
        self._structure = structure
        self._shapes = shapes
        self._sizes = {QUERIES: queries, KEYS: keys}

    def known(self, terms: Iterable[Term]) -> Known:
        """What all of these terms amount to."""
        rule, rest = Rule(), list[Term]()
        for term in terms:
            part = self._of(term)
            both = rule & part.rule
            if both is None:  # no rule says both, so that this one stays a mask
                rest.append(term)
            else:
                rule = both
                rest += part.rest
        return Known(rule, tuple(rest))

    def _of(self, term: Term) -> Known:
        rule = self._rule(term)
        if rule is not None:
            return Known(rule)
        parts = _parts(term)
        return Known(Rule(), (term,)) if parts is None else self.known(parts)

    def _rule(self, term: Term) -> Rule | None:
        """The rule that a term is, all of it."""
        form = self._structure.form(term.value)
        terms = self._shapes.terms(term.value)
        if not isinstance(form, Choice) or terms is None:
            return None
        if any(terms[-axis] != self._sizes[axis] for axis in axes_of(form)):
            return None
        inside, outside = (_added(term, number) for number in (form.inside, form.outside))
        if inside == 0.0:
            return form.rule if outside <= MASKED else Rule() if form.is_uniform else None
        return ~form.rule if outside == 0.0 and inside <= MASKED else None


def _added(term: Term, number: float) -> float:
    """What a term adds to scores where its value is `number`."""
    if term.shown is None:
        return number * term.factor
    return 0.0 if bool(number) == term.shown else term.fill


def _parts(term: Term) -> list[Term] | None:
    """Terms that together do the same; None where there are none."""
    node = term.value.producer()
    if node is None:
        return None
    inputs = [value for value in node.inputs if value is not None]
    if is_op(node, "Expand", "Identity"):  # sums and choices spread by themselves
        return [replace(term, value=inputs[0])]
    if term.shown is not None:
        if is_op(node, "Not"):
            return [replace(term, value=inputs[0], shown=not term.shown)]
        joins = is_op(node, "And" if term.shown else "Or") and term.fill <= MASKED
        return [replace(term, value=value) for value in inputs] if joins else None
    if is_op(node, "Add"):
        return [replace(term, value=value) for value in inputs]
    return _chosen(term, inputs) if is_op(node, "Where") else None


def _chosen(term: Term, inputs: Sequence[ir.Value]) -> list[Term] | None:
    """Of numbers in the place of some of which one stands that masks."""
    condition, *values = inputs
    fills = [scalar(value) for value in values]
    masks = [fill is not None and fill * term.factor <= MASKED for fill in fills]
    if masks[0] == masks[1]:
        return None
    fill, shown = fills[masks.index(True)], values[masks.index(False)]
    assert fill is not None  # it masks
    choice = Term(condition, 1.0, masks[1], fill * term.factor)
    return [choice, replace(term, value=shown)]


def numbers(term: Term) -> NDArray[np.float32] | None:
    """What a term adds to the scores, where that is constant."""
    array = constant(term.value)
    if array is None:
        return None
    if term.shown is None:
        return array.astype(np.float32) * np.float32(term.factor)
    return np.where(array.astype(bool) == term.shown, 0, term.fill).astype(np.float32)


def put(terms: Sequence[Term], tape: Tape) -> ir.Value:
    """The sum of terms, by nodes on a tape where it is not there yet."""
    total: ir.Value | None = None
    for term in terms:
        part = _put(term, tape)
        total = part if total is None else tape.op("Add", total, part)
    assert total is not None, "there is no sum of nothing"
    return total


def _put(term: Term, tape: Tape) -> ir.Value:
    if term.shown is None:
        factor = tape.constant(np.array(term.factor, np.float32))
        return term.value if term.factor == 1.0 else tape.op("Mul", term.value, factor)
    ends = [tape.constant(np.array(number, np.float32)) for number in (0.0, term.fill)]
    return tape.op("Where", term.value, *(ends if term.shown else reversed(ends)))
