"""What offers of one weight share changes nothing about them."""

from __future__ import annotations

import numpy as np
import pytest

from sparsecc.formats.patterns import Pattern
from sparsecc.formats.structures import Structure
from sparsecc.passes.structured.offers import Fitter, Offer, materialised
from sparsecc.passes.weights.sparsegpt import sparsegpt

_HALF = (Pattern.parse("4x1"), 0.5)
OFFERS = [
    Offer(Structure("rank", (8,))),
    Offer(Structure("rank", (16,))),
    Offer(Structure("rank", (8,)), Pattern.parse("4x1"), 0.7),
    Offer(Structure("monarch", (4, 4, 3))),
]


@pytest.mark.parametrize("shape", [(48, 64), (64, 48)])
@pytest.mark.parametrize("seen", [True, False])
def test_one_fitter_for_all_gives_what_one_for_each_does(
    shape: tuple[int, int], seen: bool
) -> None:
    rng = np.random.default_rng(0)
    weight, inputs = rng.normal(size=shape), rng.normal(size=(200, shape[1])) * np.arange(shape[1])
    moment = inputs.T @ inputs / len(inputs) if seen else None
    together = Fitter(weight, moment)
    zeros = together.zeros(*_HALF)
    plain = sparsegpt(weight, np.eye(shape[1]) if moment is None else moment, *_HALF)[0]
    np.testing.assert_array_equal(zeros, plain)
    for offer in OFFERS:
        pairs = [each.factors(offer) for each in (together, Fitter(weight, moment))]
        made = [materialised(fit, sparse, shape) for fit, sparse in pairs]
        np.testing.assert_array_equal(*made)
        assert pairs[0][0].residual == pairs[1][0].residual


def test_zeros_beside_a_low_rank_leave_less_than_it_alone() -> None:
    weight = np.random.default_rng(1).normal(size=(64, 64))
    fitter = Fitter(weight, None)
    lost = []
    for offer in (OFFERS[0], OFFERS[2]):
        made = materialised(*fitter.factors(offer), weight.shape)
        lost.append(float(np.square(weight - made).sum()))
    assert lost[1] < 0.8 * lost[0]
