"""Open sizes in TVM: terms of the model's dimensions as expressions over a function's variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import onnx_ir as ir

from sparsecc.backends.tvm.load import load, tvm_ffi
from sparsecc.passes.fuse.terms import Term, Terms

_LARGEST_DENOMINATOR = 1 << 10


class Symbols:
    """Variables for what is open in the shapes of a function's inputs.

    A term that is the whole of some dimension gets a variable. What is computed from such terms is
    an expression; a dimension that cannot be written so gets a variable too.
    """

    def __init__(self, shapes: Sequence[Terms]) -> None:
        self.variables: dict[Term, Any] = {}
        self.learned: dict[Term, Any] = {}
        for term in (term for terms in shapes for term in terms):
            if _is_atom(term):
                self._bind(term)
        for term in (term for terms in shapes for term in terms):
            if self.expression(term) is None:
                self._bind(term)

    def _bind(self, term: Term) -> None:
        if term not in self.variables:
            self.variables[term] = load().tirx.Var(f"s{len(self.variables)}", "int64")

    def expression(self, term: Term) -> Any | None:
        """A term as a whole-number expression of TVM, or None where variables are missing."""
        if isinstance(term, int):
            return load().tirx.IntImm("int64", term)
        if term in self.variables:
            return self.variables[term]
        if term in self.learned:
            return self.learned[term]
        if _is_atom(term) or not isinstance(term, tuple):
            return None
        return self._compound(term)

    def learn(self, terms: Terms, dims: Sequence[Any]) -> None:
        """Note what dimensions are that TVM knows better."""
        for term, dim in zip(terms, dims, strict=True):
            if self.expression(term) is None:
                self.learned[term] = dim

    def _compound(self, term: tuple[Any, ...]) -> Any | None:
        kind, *operands = term
        if kind == "times":
            return self._product(*operands)
        if kind == "sum":
            parts = self._all(operands[0])
            return None if parts is None else sum(parts[1:], parts[0])
        if kind == "slide":
            inner = self.expression(operands[0])
            margin, stride = operands[1:]
            return None if inner is None else (inner + margin) // stride + 1
        if kind == "scale":
            inner, factor = self.expression(operands[0]), Fraction(operands[1])
            if inner is None or factor.denominator > _LARGEST_DENOMINATOR:
                return None
            return inner * factor.numerator // factor.denominator
        if kind == "rest":
            whole, divisor = self._all(operands[0]), self.expression(operands[1])
            return (
                None
                if not whole or divisor is None
                else math.prod(whole[1:], start=whole[0]) // divisor
            )
        return None

    def _all(self, terms: Sequence[Term]) -> list[Any] | None:
        found = [self.expression(term) for term in terms]
        return None if any(each is None for each in found) else found

    def _product(self, number: int, powers: frozenset[tuple[Term, int]]) -> Any | None:
        factors = self._all([term for term, power in powers for _ in range(power)])
        if factors is None:
            return None
        factors = sorted(factors, key=str)  # a set has no order that lasts
        return math.prod(factors[1:], start=factors[0]) * number


def _is_atom(term: Term) -> bool:
    """A name that the model's author gave, or a dimension of which nothing is known."""
    if isinstance(term, str):
        return True
    return isinstance(term, tuple) and len(term) == 2 and isinstance(term[0], ir.Value)


def variables_in(parts: Sequence[Any]) -> set[Any]:
    """All variables in TVM's statements, expressions and types."""
    found: set[Any] = set()
    for part in parts:
        tvm_ffi().structural_walk(part, (load().ir.Var, found.add))
    return found


def atoms(terms: Sequence[Term]) -> list[Term]:
    """What terms are made of: names and dimensions of which nothing is known, each once."""
    found: dict[Term, None] = {}
    for term in terms:
        if _is_atom(term):
            found[term] = None
        elif isinstance(term, tuple):
            found.update(dict.fromkeys(atoms([part for part in term[1:] for part in _parts(part)])))
    return list(found)


def _parts(operand: Any) -> list[Term]:
    if isinstance(operand, frozenset):  # powers, or terms that broadcast
        pairs = sorted(operand, key=str)
        return [
            pair[0] if isinstance(pair, tuple) and len(pair) == 2 and not _is_atom(pair) else pair
            for pair in pairs
        ]
    if isinstance(operand, tuple) and not _is_atom(operand) and operand[:1] not in _KINDS:
        return list(operand)
    return [operand]


_KINDS = tuple((kind,) for kind in ("times", "sum", "slide", "scale", "rest", "broadcast"))
