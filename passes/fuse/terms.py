"""Arithmetic of terms: what :class:`~sparsecc.passes.fuse.shapes.Shapes` knows of a dimension.

A term is a whole number, anything else that stands for one number of a run, or a product of these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

Term = Hashable
Terms = tuple[Term, ...]

_PRODUCT = "times"


def times(*terms: Term) -> Term:
    """The product of terms."""
    number, symbols = 1, Counter[Term]()
    for term in terms:
        factor, others = _parts(term)
        number *= factor
        symbols += others
    return _term(number, symbols)


def over(term: Term, divisor: Term) -> Term | None:
    """The quotient, where it is known to be a whole number; `divisor` is not zero."""
    number, symbols = _parts(term)
    factor, others = _parts(divisor)
    if not factor or number % factor or others - symbols:
        return None
    return _term(number // factor, symbols - others)


def _parts(term: Term) -> tuple[int, Counter[Term]]:
    if isinstance(term, int):
        return term, Counter()
    if isinstance(term, tuple) and term[:1] == (_PRODUCT,):
        return term[1], Counter(dict(term[2]))
    return 1, Counter([term])


def _term(number: int, symbols: Counter[Term]) -> Term:
    if not number or not symbols:
        return number
    if number == 1 and symbols.total() == 1:
        return next(iter(symbols))
    return (_PRODUCT, number, frozenset(symbols.items()))


def number_of(term: Term, symbols: Callable[[Term], int]) -> int:
    """What a term comes to, where symbols have these numbers."""
    number, parts = _parts(term)
    for symbol, power in parts.items():
        number *= symbols(symbol) ** power
    return number
