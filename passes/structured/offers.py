"""Structures that a weight does not have: what a search offers beside zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsecc.formats.patterns import DENSE, Pattern
from sparsecc.formats.structures import Structure
from sparsecc.passes.structured.base import Fit, Matrix, Shape
from sparsecc.passes.structured.forms import FORMS
from sparsecc.passes.structured.rewrite import misfit
from sparsecc.passes.weights.layers import Layer
from sparsecc.passes.weights.sparsegpt import sparsegpt
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


def fit_offer(weight: Matrix, offer: Offer, moment: Matrix | None) -> tuple[Fit, Matrix | None]:
    """The factors of a weight, and what is sparse beside them.

    Low rank and sparse parts are fitted in turn, each to what the other leaves.

    Args:
        weight: ``[R, K]``.
        offer: What to make of it.
        moment: ``[K, K]`` of its inputs, or None: then all inputs count the same.
    """
    form = FORMS[offer.structure.form]
    fit = form.fit(weight, offer.structure, moment)
    if offer.pattern == DENSE:
        return fit, None
    shape = (weight.shape[0], weight.shape[1])
    h = np.eye(shape[1]) if moment is None else moment
    sparse = np.zeros_like(weight)
    for number in range(_ROUNDS):
        if number:
            fit = form.fit(weight - sparse, offer.structure, moment)
        left = weight - form.dense(fit.factors, offer.structure, shape)
        sparse = sparsegpt(left, h, offer.pattern, offer.sparsity)[0]
    return fit, sparse


def materialised(fit: Fit, sparse: Matrix | None, shape: Shape) -> NDArray[np.float64]:
    """The weight that factors and a sparse part stand for."""
    weight = FORMS[fit.structure.form].dense(fit.factors, fit.structure, shape)
    return weight if sparse is None else weight + sparse
