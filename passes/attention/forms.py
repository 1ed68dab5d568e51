"""Forms of tensors that are computed from positions alone, and what arithmetic makes of them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparsecc.ops.attention_parts import UNBOUNDED
from sparsecc.passes.attention.rules import Rule

KEYS, QUERIES = 1, 2
"""Axes, counted from the last."""


@dataclass(frozen=True)
class Position:
    """Positions along one axis: ``p + offset``."""

    axis: int
    offset: int = 0


@dataclass(frozen=True)
class Distance:
    """``sign · (key - query) + offset``, or the absolute value of it."""

    sign: int
    offset: int = 0
    absolute: bool = False


@dataclass(frozen=True)
class Choice:
    """One number where a rule lets a key be seen, and another elsewhere."""

    rule: Rule
    inside: float
    outside: float

    @property
    def is_uniform(self) -> bool:
        """Whether there is one number in all."""
        return self.rule == Rule() or self.inside == self.outside


@dataclass(frozen=True)
class Tuples:
    """Indices into some axes, one part for each, along an axis of their own that is the last."""

    parts: tuple[Form | None, ...]


Form = Position | Distance | Choice | Tuples


def uniform(number: float) -> Choice:
    """The same number everywhere."""
    return Choice(Rule(), number, number)


def axes_of(form: Form) -> tuple[int, ...]:
    """The axes that the numbers of a form differ along."""
    if isinstance(form, Position):
        return (form.axis,)
    if isinstance(form, Distance):
        return KEYS, QUERIES
    if isinstance(form, Tuples) or form.is_uniform:
        return ()
    only_first_keys = form.rule.right == UNBOUNDED and form.rule.left == -UNBOUNDED
    return (KEYS,) if only_first_keys else (KEYS, QUERIES)


def total(a: Form | None, b: Form | None, sign: int) -> Form | None:
    """``a + sign · b``."""
    if isinstance(b, Choice) and b.is_uniform and not isinstance(a, Choice):
        return _shifted(a, sign * b.inside)
    if isinstance(a, Choice) and a.is_uniform and sign == 1 and not isinstance(b, Choice):
        return _shifted(b, a.inside)
    if isinstance(a, Position) and isinstance(b, Position) and sign == -1:
        turn = {(KEYS, QUERIES): 1, (QUERIES, KEYS): -1}.get((a.axis, b.axis))
        return None if turn is None else Distance(turn, a.offset - b.offset)
    return None


def _shifted(form: Form | None, by: float) -> Form | None:
    if not isinstance(form, Position | Distance) or not float(by).is_integer():
        return None
    if isinstance(form, Distance) and form.absolute:
        return None
    return replace(form, offset=form.offset + int(by))


def combined(a: Form | None, b: Form | None, what: Callable[[Any, Any], Any]) -> Choice | None:
    """Two choices, of which one is the same everywhere or both go by one rule."""
    if not (isinstance(a, Choice) and isinstance(b, Choice)):
        return None
    if not (a.is_uniform or b.is_uniform or a.rule == b.rule):
        return None
    with np.errstate(all="ignore"):
        inside, outside = (
            float(what(np.float64(x), np.float64(y)))
            for x, y in ((a.inside, b.inside), (a.outside, b.outside))
        )
    return Choice(b.rule if a.is_uniform else a.rule, inside, outside)


def flags(form: Form | None) -> Choice | None:
    """A choice that says yes where its rule does."""
    if not isinstance(form, Choice):
        return None
    if form.is_uniform:
        return replace(form, rule=Rule())
    turned = None if form.inside else ~form.rule
    if form.inside:
        return form
    return None if turned is None else Choice(turned, form.outside, form.inside)


_NEGATED = {"Less": "GreaterOrEqual", "LessOrEqual": "Greater"}
_NEGATED |= {after: before for before, after in _NEGATED.items()}
_MIRRORED = {"Less": "Greater", "LessOrEqual": "GreaterOrEqual", "Equal": "Equal"}
_MIRRORED |= {after: before for before, after in _MIRRORED.items()}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Equal": operator.eq,
}


def mirrored(kind: str, a: Form | None, b: Form | None) -> Form | None:
    """`compared` with its operands in the other order."""
    return compared(_MIRRORED[kind], b, a)


def compared(kind: str, a: Form | None, b: Form | None) -> Form | None:
    """Positions or distances with positions or one number."""
    if isinstance(b, Position):
        apart = total(a, b, -1)
        return None if apart is None else compared(kind, apart, uniform(0.0))
    if not isinstance(b, Choice) or not b.is_uniform or not np.isfinite(b.inside):
        return None
    if isinstance(a, Position):
        return _first(kind, a, b.inside)
    if not isinstance(a, Distance):
        return None
    if not a.absolute:
        rule = _side(kind, a, b.inside)
        return None if rule is None else Choice(rule, 1.0, 0.0)
    far = kind in ("Greater", "GreaterOrEqual")
    rule = None if a.offset else _near(_NEGATED[kind] if far else kind, b.inside)
    return None if rule is None else Choice(rule, float(not far), float(far))


def _first(kind: str, position: Position, number: float) -> Choice | None:
    """Whether positions are before a number."""
    bound = number - position.offset
    if kind in ("GreaterOrEqual", "Greater"):
        found = _first(_NEGATED[kind], position, number)
        known = found is not None and found.is_uniform
        return uniform(float(not found.inside)) if found is not None and known else None
    if kind not in ("Less", "LessOrEqual"):
        return None
    count = int(np.ceil(bound)) if kind == "Less" else int(np.floor(bound)) + 1
    if count <= 0:
        return uniform(0.0)
    if position.axis != KEYS or count > UNBOUNDED:
        return None
    return Choice(Rule(left=-UNBOUNDED, sinks=count), 1.0, 0.0)


def _side(kind: str, distance: Distance, number: float) -> Rule | None:
    """Keys up to a distance, or from one on."""
    bound = (number - distance.offset) * distance.sign
    kind = kind if distance.sign > 0 else _MIRRORED[kind]
    if abs(bound) >= UNBOUNDED:
        return None
    if kind == "Equal":
        return Rule(int(-bound), int(bound)) if bound == int(bound) else None
    if kind in ("Less", "LessOrEqual"):
        right = int(np.ceil(bound)) - 1 if kind == "Less" else int(np.floor(bound))
        return Rule(right=right)
    left = int(np.floor(bound)) + 1 if kind == "Greater" else int(np.ceil(bound))
    return Rule(left=-left)


def _near(kind: str, number: float) -> Rule | None:
    """Keys at most so far away, on both sides."""
    if kind not in ("Less", "LessOrEqual") or not abs(number) < UNBOUNDED:
        return None
    most = int(np.ceil(number)) - 1 if kind == "Less" else int(np.floor(number))
    return Rule(most, most)
