"""Every pattern against the written formula of its mode, pair by pair."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.errors import PlanError
from sparsecc.passes.attention.modes import (
    Grid,
    band_of,
    diagonal,
    full,
    grid_of,
    heaviest,
    multi_diagonal,
    skip,
    stripes_of,
    vertical,
)
from tests.passes.attention.grids import GRIDS

BLOCKS = st.integers(1, 17)
BANDS = st.integers(1, 6)
HEAD = 4


def striped(grid, block, stripes, mass):
    return vertical(grid, block, heaviest(grid, block, stripes, mass))


def is_word(grid, token):
    return token < grid.text if grid.text_first else token >= grid.tokens - grid.text


def blocks_with_words(grid, block):
    return {token // block for token in range(grid.tokens) if is_word(grid, token)}


def seen(pattern, tokens):
    """Which keys queries see [tokens, tokens], in the order as tokens stand."""
    by_query = pattern.kept[np.arange(tokens) // pattern.block]
    pairs = by_query[:, np.arange(tokens) // pattern.block]
    if pattern.order is None:
        return pairs
    here = np.empty_like(pairs)
    here[np.ix_(pattern.order, pattern.order)] = pairs
    return here


def place_of(grid, token):
    """Where a token goes: f·F + p to p·T + f, words nowhere."""
    if is_word(grid, token):
        return token
    start = grid.text if grid.text_first else 0
    frame, place = divmod(token - start, grid.height * grid.width)
    return start + place * grid.frames + frame


def attend(q, k, v, visible):
    scores = np.where(visible, q @ k.T / math.sqrt(q.shape[1]), -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True) @ v


@given(GRIDS, BLOCKS)
def test_full_keeps_all_and_skip_nothing(grid, block):
    blocks = math.ceil(grid.tokens / block)
    assert full(grid, block).kept.shape == skip(grid, block).kept.shape == (blocks, blocks)
    assert full(grid, block).density == 1
    assert skip(grid, block).density == 0


@given(GRIDS, BLOCKS, BANDS)
def test_diagonal(grid, block, band):
    words = blocks_with_words(grid, block)
    pairs = seen(diagonal(grid, block, band), grid.tokens)
    for i, j in np.ndindex(pairs.shape):
        near = abs(i // block - j // block) < band
        assert pairs[i, j] == (near or i // block in words or j // block in words)


@given(GRIDS, BLOCKS, BANDS)
def test_multi_diagonal(grid, block, band):
    words = blocks_with_words(grid, block)
    pairs = seen(multi_diagonal(grid, block, band), grid.tokens)
    moved = [place_of(grid, token) // block for token in range(grid.tokens)]
    for i, j in np.ndindex(pairs.shape):
        near = abs(moved[i] - moved[j]) < band
        assert pairs[i, j] == (near or moved[i] in words or moved[j] in words)


@given(GRIDS, BLOCKS, BANDS)
def test_words_see_all_and_are_seen_by_all(grid, block, band):
    mass = np.ones(grid.tokens)
    for pattern in (
        diagonal(grid, block, band),
        multi_diagonal(grid, block, band),
        striped(grid, block, band, mass),
    ):
        pairs = seen(pattern, grid.tokens)
        words = [token for token in range(grid.tokens) if is_word(grid, token)]
        assert pairs[words].all()
        assert pairs[:, words].all()
        assert pairs.any(1).all()


@given(GRIDS, BLOCKS, BANDS)
def test_in_place_covers_the_pattern_with_the_fewest_blocks(grid, block, band):
    pattern = multi_diagonal(grid, block, band)
    pairs, cover = seen(pattern, grid.tokens), pattern.in_place()
    assert cover.order is None
    for i, j in np.ndindex(cover.kept.shape):
        inside = pairs[i * block : (i + 1) * block, j * block : (j + 1) * block]
        assert cover.kept[i, j] == inside.any()


@given(GRIDS, BLOCKS, BANDS, st.integers(0, 2**32 - 1))
def test_attention_in_the_pattern_s_order_is_masked_attention(grid, block, band, seed):
    pattern = multi_diagonal(grid, block, band)
    chance = np.random.default_rng(seed)
    q, k, v = chance.standard_normal((3, grid.tokens, HEAD))
    order = pattern.order
    in_order = seen(pattern, grid.tokens)[np.ix_(order, order)]
    ours = np.empty_like(v)
    ours[order] = attend(q[order], k[order], v[order], in_order)
    np.testing.assert_allclose(ours, attend(q, k, v, seen(pattern, grid.tokens)), rtol=1e-9)


@given(GRIDS, BLOCKS, st.integers(0, 8), st.integers(0, 2**32 - 1))
def test_vertical_keeps_the_blocks_of_the_largest_mass(grid, block, stripes, seed):
    mass = np.random.default_rng(seed).random(grid.tokens)
    words = blocks_with_words(grid, block)
    pattern = striped(grid, block, stripes, mass)
    sums = [mass[at : at + block].sum() for at in range(0, grid.tokens, block)]
    others = sorted((b for b in range(len(sums)) if b not in words), key=lambda b: -sums[b])
    chosen = words | set(others[:stripes])
    for i, j in np.ndindex(pattern.kept.shape):
        assert pattern.kept[i, j] == (i in words or j in chosen)


@given(GRIDS, BLOCKS, st.floats(0, 1))
def test_stripes_are_the_most_within_a_density(grid, block, density):
    mass = np.ones(grid.tokens)
    stripes = stripes_of(grid, block, density)
    others = math.ceil(grid.tokens / block) - len(blocks_with_words(grid, block))
    one = striped(grid, block, min(1, others), mass)
    pattern = striped(grid, block, stripes, mass)
    assert pattern.density <= max(density, one.density) + 1e-9
    if stripes < others:
        assert striped(grid, block, stripes + 1, mass).density > density - 1e-9


@given(GRIDS, BLOCKS, st.floats(0, 1))
def test_band_of_a_density(grid, block, density):
    of_band = max(0, density - 2 * grid.text / grid.tokens)
    width = grid.tokens * (1 - math.sqrt(1 - of_band))
    assert band_of(grid, block, density) == max(1, math.floor(width / block))


def test_band_of_frames_is_the_paper_s():
    cogvideo = Grid(11, 48, 85, text=226)
    assert band_of(cogvideo, 128) == 4080 * 3 // 2 // 128


def test_density_of_a_band_is_what_was_asked_for_where_blocks_are_small():
    cogvideo = Grid(11, 48, 85, text=226)
    for density in (0.1, 0.25, 0.5):
        for mode in (diagonal, multi_diagonal):
            pattern = mode(cogvideo, 128, band_of(cogvideo, 128, density))
            assert pattern.density == pytest.approx(density, abs=0.012)


def test_grid_is_found_where_only_one_fits():
    assert grid_of(9219, frames=16, height=24, text=3) == Grid(16, 24, 24, 3)
    assert grid_of(8, text_first=False) == Grid(2, 2, 2, text_first=False)
    assert grid_of(35, frames=1, width=5) == Grid(1, 7, 5)
    assert grid_of(14, height=7, width=1, frames=2) == Grid(2, 7, 1)


@pytest.mark.parametrize(
    ("tokens", "known", "says"),
    [
        (9217, {"frames": 16, "height": 24, "width": 24}, "no grid of 16 × 24 × 24"),
        (9217, {"frames": 16, "height": 24}, r"no grid of 16 × 24 × \?"),
        (7, {}, "no grid"),
        (3, {"text": 5}, "3 tokens beside 5 words are no grid"),
        (12, {}, "more than one grid .* 2 × 2 × 3, 2 × 3 × 2, 3 × 2 × 2\n"),
        (9216, {"frames": 16}, "more than one grid .* and 15 more\n"),
        (8, {"frames": 0}, "no grid"),
        (8, {"text": -1}, "no grid"),
    ],
)
def test_grids_that_are_none_or_many(tokens, known, says):
    with pytest.raises(PlanError, match=says) as caught:
        grid_of(tokens, **known)
    assert caught.value.fix


def test_grid_that_is_not_an_attention_s_names_its_node():
    with pytest.raises(PlanError, match=r"is 8 tokens, the attention has 9") as caught:
        Grid(2, 2, 2).check(9, "blocks.0.attention")
    assert caught.value.node == "blocks.0.attention"
    Grid(2, 2, 2).check(8)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Grid(0, 1, 1),
        lambda: Grid(1, 1, 1, text=-1),
        lambda: full(Grid(2, 2, 2), 0),
        lambda: diagonal(Grid(2, 2, 2), 4, 0),
        lambda: band_of(Grid(2, 2, 2), 4, 1.5),
        lambda: stripes_of(Grid(2, 2, 2), 4, float("nan")),
        lambda: heaviest(Grid(2, 2, 2), 4, 1, np.ones(7)),
        lambda: heaviest(Grid(2, 2, 2), 4, 1, np.full(8, np.nan)),
        lambda: heaviest(Grid(2, 2, 2), 4, 1, np.full(8, -1.0)),
    ],
)
def test_what_is_no_pattern(wrong):
    with pytest.raises(PlanError) as caught:
        wrong()
    assert caught.value.fix


@pytest.mark.parametrize(
    ("spec", "grid"),
    [
        ("16x24x20", Grid(16, 24, 20)),
        ("8+2x3x4", Grid(2, 3, 4, 8)),
        ("2x3x4+8", Grid(2, 3, 4, 8, text_first=False)),
    ],
)
def test_a_grid_is_read_as_it_is_written(spec, grid):
    assert Grid.parse(spec) == grid
    assert grid.spec == spec


@pytest.mark.parametrize("spec", ["", "16x24", "x2x3x4", "1+2x3x4+5", "2x3x-4", "2x3x٤", "0x3x4"])
def test_what_is_no_grid_is_refused(spec):
    with pytest.raises(PlanError, match="no grid of tokens"):
        Grid.parse(spec)
