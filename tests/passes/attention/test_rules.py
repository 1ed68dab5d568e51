"""Masks and the rules and blocks that they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.passes.attention.rules import (
    BLOCK,
    UNBOUNDED,
    Kept,
    Rule,
    blocks_of,
    enclosing,
    grid_of,
    rule_of,
    spread,
    take_apart,
)

LENGTHS = st.integers(1, 40)
SIDES = st.one_of(st.integers(-3, 45), st.just(UNBOUNDED))
RULES = st.builds(Rule, SIDES, SIDES, st.integers(0, 6))
MANY = settings(max_examples=300)


def mask_of(seen: np.ndarray, masked: float = -np.inf) -> np.ndarray:
    return np.where(seen, 0, masked).astype(np.float32)


@MANY
@given(RULES, LENGTHS, LENGTHS)
def test_a_mask_made_by_a_rule_is_a_rule_again(rule: Rule, queries: int, keys: int) -> None:
    seen = rule.seen(queries, keys)
    found = rule_of(seen)
    assert found is not None
    np.testing.assert_array_equal(found.seen(queries, keys), seen)


@MANY
@given(st.data(), LENGTHS, LENGTHS)
def test_a_rule_that_is_found_reproduces_the_mask_bit_by_bit(
    data: st.DataObject, queries: int, keys: int
) -> None:
    seen = data.draw(RULES).seen(queries, keys)
    row, column = data.draw(st.integers(0, queries - 1)), data.draw(st.integers(0, keys - 1))
    seen[row, column] ^= True
    found = rule_of(seen)
    if found is not None:
        np.testing.assert_array_equal(found.seen(queries, keys), seen)


@MANY
@given(RULES, RULES, LENGTHS, LENGTHS)
def test_rules_combine_as_the_sets_that_they_are(
    one: Rule, other: Rule, queries: int, keys: int
) -> None:
    size = queries, keys
    both, either, hidden = one & other, one | other, ~one
    if both is not None:
        np.testing.assert_array_equal(both.seen(*size), one.seen(*size) & other.seen(*size))
    if either is not None:
        np.testing.assert_array_equal(either.seen(*size), one.seen(*size) | other.seen(*size))
    if hidden is not None:
        np.testing.assert_array_equal(hidden.seen(*size), ~one.seen(*size))


@MANY
@given(RULES, LENGTHS, LENGTHS)
def test_rules_under_which_every_query_sees_a_key(rule: Rule, queries: int, keys: int) -> None:
    if rule.sees_any(queries, keys):
        assert rule.seen(queries, keys).any(axis=1).all()
    if rule.sees_any("T", "T"):
        assert rule.seen(queries, queries).any(axis=1).all()


def test_what_has_to_combine_does() -> None:
    causal, window, sinks = Rule(right=0), Rule(left=7), Rule(left=-UNBOUNDED, sinks=4)
    assert causal & window == Rule(7, 0)
    assert (window | sinks) == Rule(7, UNBOUNDED, 4)
    streaming = window | sinks
    assert streaming is not None
    assert causal & streaming == Rule(7, 0, 4)
    assert ~causal == Rule(left=-1)
    assert ~Rule(left=-1) == causal


@MANY
@given(RULES, st.integers(1, 300), st.integers(1, 300))
def test_scores_that_are_left_are_counted(rule: Rule, queries: int, keys: int) -> None:
    seen = rule.seen(queries, keys)
    assert rule.scores(queries, keys) == seen.sum()
    blocks = blocks_of(seen[None])
    in_blocks = Kept(Rule(), blocks).scores(queries, keys)
    assert in_blocks == spread(blocks[0], queries, keys).sum()


@given(st.data(), st.integers(1, 3), st.integers(1, 200), st.integers(1, 200))
def test_whatever_is_taken_apart_comes_to_the_same(
    data: st.DataObject, heads: int, queries: int, keys: int
) -> None:
    """Rule, blocks and what stays of the mask together hide just what the mask does."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    grid = -(-queries // BLOCK), -(-keys // BLOCK)
    blocks = rng.random((heads, *grid)) < data.draw(st.floats(0, 1))
    seen = np.stack([spread(each, queries, keys) for each in blocks])
    seen &= data.draw(RULES).seen(queries, keys)
    seen &= rng.random(seen.shape) > data.draw(st.sampled_from([0, 0.1]))
    added = data.draw(st.sampled_from([0, 1])) * rng.standard_normal(seen.shape)
    mask = np.where(seen, added, data.draw(st.sampled_from([-np.inf, -1e4, -3e38])))
    mask = mask.astype(np.float32)
    kept = take_apart(mask)
    if not seen.any(-1).all():
        assert kept == "a query that sees no key"
        seen_by_none = ~seen.any(-1)
        mask[seen_by_none] = -np.inf
        kept = take_apart(mask, zeros=True)
    assert isinstance(kept, Kept)
    again = np.broadcast_to(mask if kept.mask is None else kept.mask, mask.shape)
    left = kept.rule.seen(queries, keys)[None]
    if kept.blocks is not None:
        left = left & np.stack([spread(each, queries, keys) for each in kept.blocks])
    if kept.mask is None:
        np.testing.assert_array_equal(np.broadcast_to(left, seen.shape), seen)
        assert not mask[seen].any()
    else:
        assert not (seen & ~left).any()
        np.testing.assert_array_equal(again, mask)


def test_equal_heads_are_one() -> None:
    mask = np.repeat(mask_of(Rule(3, 0).seen(9, 9))[None], 4, axis=0)
    assert take_apart(mask) == Kept(Rule(3, 0))


def test_longformer_is_blocks_whose_edges_stay_masked() -> None:
    """A window, and one token that sees all and is seen by all."""
    seen = Rule(64, 64).seen(512, 512)
    seen[:, 0] = seen[0] = True
    kept = take_apart(mask_of(seen)[None])
    assert isinstance(kept, Kept)
    assert kept.blocks is not None
    assert kept.mask is not None
    assert kept.blocks.sum() == 8 * 3 - 2 + 2 * 6
    index, grid = grid_of(kept.blocks)
    assert grid.tolist() == [1, 8, 8, BLOCK, BLOCK]
    assert len(index) == kept.blocks.sum()


def test_whole_blocks_within_a_causal_rule_need_no_mask() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.random((4, 8, 8)) < 0.3
    blocks |= np.eye(8, dtype=bool)
    seen = np.stack([spread(each, 500, 500) for each in blocks]) & Rule(right=0).seen(500, 500)
    kept = take_apart(mask_of(seen))
    assert isinstance(kept, Kept)
    assert kept.rule == Rule(right=0)
    assert kept.mask is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_mask_is_refused(value: float) -> None:
    mask = mask_of(Rule(right=0).seen(4, 4))[None]
    mask[0, 0, 0] = value
    assert take_apart(mask) == "a mask that is infinite or no number"


def test_enclosing_rules_bound_what_they_can() -> None:
    assert enclosing(Rule(5, 2).seen(20, 20)) == Rule(5, 2)
    assert enclosing(np.ones((4, 9), bool)) == Rule()
    assert enclosing(np.zeros((4, 9), bool)) == Rule()
