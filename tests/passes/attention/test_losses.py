"""Losses of patterns against attention with a mask of -inf in float64, written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.errors import PlanError
from sparsecc.passes.attention.losses import attend_kept, losses
from sparsecc.passes.attention.modes import Grid
from sparsecc.passes.attention.offers import FULL, SKIP, Offer, offers
from sparsecc.passes.attention.search import attend
from tests.passes.attention.grids import GRIDS


def softmax(q, k, scale, seen):
    scores = np.where(seen, scale * (q.astype(np.float64) @ k.T.astype(np.float64)), -np.inf)
    weights = np.exp(scores - np.maximum(scores.max(-1, keepdims=True), -1e30))
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total > 0, total, 1)


def spread(kept, tokens, block):
    at = np.arange(tokens) // block
    return kept[at][:, at]


@given(
    tokens=st.integers(1, 40),
    dim=st.integers(1, 5),
    block=st.integers(1, 17),
    patterns=st.integers(0, 4),
    scale=st.sampled_from([0.1, 1.0, 9.0]),
    seed=st.integers(0, 9),
)
def test_one_pass_gives_the_errors_of_all_patterns(tokens, dim, block, patterns, scale, seed):
    chance = np.random.default_rng(seed)
    q, k, v = chance.standard_normal((3, tokens, dim)).astype(np.float32)
    blocks = -(-tokens // block)
    kept = chance.random((patterns, blocks, blocks)) < 0.5
    found = losses(q, k, v, scale, kept, block)
    whole = softmax(q, k, scale, np.ones((tokens, tokens), bool))
    np.testing.assert_allclose(found.whole, whole @ v, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.mass, whole.sum(0), rtol=1e-4, atol=1e-6)
    energy = float(np.square(whole @ v).sum())
    for pattern, error in zip(kept, found.errors, strict=True):
        wanted = softmax(q, k, scale, spread(pattern, tokens, block)) @ v
        got = attend_kept(q, k, v, scale, pattern, block)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
        if scale < 9:  # beside a key so much nearer, others vanish in float32 and lose all
            away = float(np.square(wanted - whole @ v).sum())
            assert error == pytest.approx(away, rel=1e-3, abs=1e-4 * max(energy, 1e-3))


@settings(deadline=None)
@given(grid=GRIDS, block=st.integers(1, 17), seed=st.integers(0, 9))
def test_every_offer_is_dense_attention_with_a_mask(grid, block, seed):
    chance = np.random.default_rng(seed)
    q, k, v = chance.standard_normal((3, 1, 1, grid.tokens, 3)).astype(np.float32)
    found = offers(grid, block, chance.random(grid.tokens))
    assert found[0] == SKIP
    assert len({*found}) == len(found)
    for offer in (FULL, *found):
        pattern = offer.pattern(grid, block)
        assert (pattern.density < 1) == (offer != FULL)
        seen = spread(pattern.kept, grid.tokens, block)
        if pattern.order is not None:
            here = np.empty_like(seen)
            here[np.ix_(pattern.order, pattern.order)] = seen
            seen = here
        got = attend((q, k, v), 0.5, [pattern])[0, 0]
        np.testing.assert_allclose(got, softmax(q[0, 0], k[0, 0], 0.5, seen) @ v[0, 0], atol=1e-5)


@pytest.mark.parametrize(
    "offer",
    [
        Offer("full", 1),
        Offer("skip", 0, (1,)),
        Offer("diagonal", 1, (1,)),
        Offer("diagonal", 0),
        Offer("vertical", 2, (1,)),
        Offer("vertical", 2, (1, 0)),
        Offer("vertical", 1, (4,)),
    ],
)
def test_settings_that_a_mode_has_not_are_refused(offer):
    with pytest.raises(PlanError):
        offer.pattern(Grid(4, 2, 2), 4)


def test_what_is_known_of_full_heads_is_taken():
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 2, 9, 4)).astype(np.float32)
    known = np.full_like(q, 7)
    grid = Grid(1, 3, 3)
    patterns = [FULL.pattern(grid, 4), Offer("diagonal", 1).pattern(grid, 4)]
    made = attend((q, k, v), 0.5, patterns, known)
    assert (made[:, 0] == 7).all()
    assert np.array_equal(made[:, 1], attend((q, k, v), 0.5, patterns)[:, 1])
