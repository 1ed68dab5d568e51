"""Structures that a weight does not have: what a search offers beside zeros."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsecc.formats.patterns import DENSE, Pattern
from sparsecc.formats.structures import Structure
from sparsecc.passes.structured import low_rank
from sparsecc.passes.structured.base import Fit, Matrix, Shape
from sparsecc.passes.structured.forms import FORMS
from sparsecc.passes.structured.rewrite import misfit
from sparsecc.passes.weights.layers import Layer
from sparsecc.passes.weights.sparsegpt import Elimination, sparsegpt
from sparsecc.search.search import Mode

LEAST_SIDE = 128
"""Layers with fewer outputs or inputs are not offered any."""
MOST_SIDE = 2048
"""Layers whose smaller side exceeds this are not either: a fit would take minutes."""
_ROUNDS = 2
"""Of a low rank and a sparse part, each fitted to what the other leaves."""
_RANKS: Mapping[Mode, tuple[float, ...]] = {
    "fast": (0.15, 0.3, 0.45),
    "thorough": (0.08, 0.15, 0.22, 0.3, 0.4, 0.5),
}
"""Shares of the parameters."""
_MONARCH: Mapping[Mode, tuple[tuple[int, float], ...]] = {
    "fast": ((4, 0.35),),
    "thorough": ((4, 0.2), (4, 0.35), (8, 0.35)),
}
"""Blocks of a side, and shares of the parameters."""
_BESIDE = Pattern.parse("4x1")
_WITH_SPARSE: Mapping[Mode, tuple[tuple[float, float], ...]] = {
    "fast": ((0.08, 0.8),),
    "thorough": ((0.05, 0.85), (0.08, 0.8), (0.12, 0.7)),
}
"""Shares of the parameters of the low rank, and of zeros in the part beside it."""


@dataclass(frozen=True)
class Offer:
    """A structure, and what is sparse beside it.

    Attributes:
        structure: The factors.
        pattern: Of the sparse part; dense where there is none.
        sparsity: Share of its zeros; 0 where there is none.
    """

    structure: Structure
    pattern: Pattern = DENSE
    sparsity: float = 0.0


def offers(layer: Layer, mode: Mode) -> list[Offer]:
    """What a layer large enough is offered; whether it pays is not asked here."""
    sides = (layer.rows, layer.cols)
    if not LEAST_SIDE <= min(sides) <= MOST_SIDE:
        return []
    return [
        each
        for each in _all(sides, mode)
        if not misfit(layer, each.structure, with_sparse=each.pattern != DENSE)
    ]


def _all(shape: Shape, mode: Mode) -> Iterator[Offer]:
    rows, cols = shape
    for share in _RANKS[mode]:
        yield Offer(_rank(shape, share))
    for share, sparsity in _WITH_SPARSE[mode]:
        yield Offer(_rank(shape, share), _BESIDE, sparsity)
    for side, share in _MONARCH[mode]:
        inner = round(share * rows * cols / (side * (rows + cols)))
        yield Offer(Structure("monarch", (side, side, max(1, inner))))


def _rank(shape: Shape, share: float) -> Structure:
    """The rank that makes so much of a weight's parameters, in whole vectors of eight."""
    rank = share * shape[0] * shape[1] / (shape[0] + shape[1])
    return Structure("rank", (max(8, round(rank / 8) * 8),))


class Fitter:
    """Fits one weight to what is offered, and computes once what the offers share.

    Args:
        weight: ``[R, K]`` float64.
        moment: ``[K, K]`` of its inputs, or None: then all inputs count the same.
    """

    def __init__(self, weight: Matrix, moment: Matrix | None) -> None:
        self.weight = weight
        self.moment = moment

    def zeros(self, pattern: Pattern, sparsity: float) -> Matrix:
        """The weight with so many zeros, as SparseGPT makes them."""
        return self._sparse(self.weight, pattern, sparsity)

    def factors(self, offer: Offer) -> tuple[Fit, Matrix | None]:
        """The factors of the weight, and what is sparse beside them.

        Low rank and sparse parts are fitted in turn, each to what the other leaves.
        """
        fit, form = self._fit(offer.structure), FORMS[offer.structure.form]
        if offer.pattern == DENSE:
            return fit, None
        shape = (self.weight.shape[0], self.weight.shape[1])
        sparse = np.zeros_like(self.weight)
        for number in range(_ROUNDS):
            if number:
                fit = form.fit(self.weight - sparse, offer.structure, self.moment)
            left = self.weight - form.dense(fit.factors, offer.structure, shape)
            sparse = self._sparse(left, offer.pattern, offer.sparsity)
        return fit, sparse

    def _fit(self, structure: Structure) -> Fit:
        if structure.form == "rank":
            return low_rank.fit_in(self._basis, self.weight, structure)
        return FORMS[structure.form].fit(self.weight, structure, self.moment)

    @functools.cached_property
    def _moment(self) -> Matrix:
        return np.eye(self.weight.shape[1]) if self.moment is None else self.moment

    @functools.cached_property
    def _elimination(self) -> Elimination:
        return Elimination.of(self._moment)

    @functools.cached_property
    def _basis(self) -> tuple[Matrix, Matrix]:
        return low_rank.basis_of(self.weight, self.moment)

    def _sparse(self, weight: Matrix, pattern: Pattern, sparsity: float) -> Matrix:
        return sparsegpt(weight, self._moment, pattern, sparsity, known=self._elimination)[0]


def materialised(fit: Fit, sparse: Matrix | None, shape: Shape) -> NDArray[np.float64]:
    """The weight that factors and a sparse part stand for."""
    weight = FORMS[fit.structure.form].dense(fit.factors, fit.structure, shape)
    return weight if sparse is None else weight + sparse
