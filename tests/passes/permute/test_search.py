from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecc.formats.patterns import Pattern, mask_from_scores
from sparsecc.passes.permute.search import Term, by_size, greedy, retained, search

KINDS = ("independent", "scaled rows", "clustered rows")


def drawn(kind: str, rows: int, cols: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 1, (rows, cols))
    if kind == "scaled rows":
        weight *= rng.lognormal(0, 0.5, (rows, 1))
    if kind == "clustered rows":
        weight *= rng.lognormal(0, 0.7, (8, cols))[rng.integers(0, 8, rows)]
    return np.square(weight).astype(np.float32)


def by_mask(scores: NDArray[np.float32], pattern: str, sparsity: float) -> float:
    """What the mask keeps, as the pruning itself makes it."""
    mask = mask_from_scores(scores, Pattern.parse(pattern), sparsity)
    return float(scores[mask].sum(dtype=np.float64) / scores.sum(dtype=np.float64))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.integers(2, 40), st.integers(1, 12), st.sampled_from([2, 4, 8]))
def test_what_is_kept_is_what_the_mask_keeps(kind: str, rows: int, cols: int, side: int) -> None:
    scores = drawn(kind, rows, cols, rows)
    order = np.random.default_rng(cols).permutation(rows)
    kept = retained([Term(scores, side, density=0.5)], order)
    assert kept == pytest.approx(by_mask(scores[order], f"{side}x1", 0.5), rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.integers(2, 40), st.integers(1, 12))
def test_kept_of_every_four_is_what_the_mask_keeps(kind: str, rows: int, cols: int) -> None:
    scores = drawn(kind, rows, cols, rows)
    order = np.random.default_rng(cols).permutation(rows)
    kept = retained([Term(scores, 4, keep=2)], order)
    assert kept == pytest.approx(by_mask(scores[order].T, "2:4", 0.5), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(KINDS), st.integers(2, 40), st.booleans(), st.integers(0, 99))
def test_never_worse_than_before_or_than_sorting(
    kind: str, rows: int, several: bool, seed: int
) -> None:
    terms = [Term(drawn(kind, rows, 9, seed), 4, density=0.4)]
    if several:
        terms.append(Term(drawn(kind, rows, 5, seed + 1), 4, keep=2))
        terms.append(Term(drawn(kind, rows, 5, seed + 2), 2, density=0.5))
    found = search(terms, seed=seed)
    assert np.array_equal(np.sort(found.order), np.arange(rows))
    assert found.after == retained(terms, found.order)
    assert found.before == retained(terms, np.arange(rows))
    assert found.after >= max(found.before, retained(terms, by_size(terms)))


def test_finds_the_best_of_all_orders() -> None:
    for seed in range(8):
        terms = [Term(drawn("independent", 6, 3, seed), 2, density=0.5)]
        best = max(retained(terms, np.array(each)) for each in itertools.permutations(range(6)))
        assert search(terms).after > 0.97 * best


@pytest.mark.parametrize(("kind", "least"), list(zip(KINDS, (0.79, 0.89, 0.86), strict=True)))
def test_beats_greedy_and_sorting(kind: str, least: float) -> None:
    terms = [Term(drawn(kind, 256, 256, 3), 4, density=0.5)]
    found = search(terms)
    for rival in (by_size(terms), greedy(terms)):
        assert found.after > retained(terms, rival) + 0.001
    assert found.after > least


def test_twins_end_up_together() -> None:
    alike = np.repeat(drawn("independent", 16, 64, 5) ** 2, 4, axis=0)
    mixed = alike[np.random.default_rng(0).permutation(64)]
    found = search([Term(mixed, 4, density=0.5)])
    ideal = retained([Term(alike, 4, density=0.5)], np.arange(64))
    assert found.after == pytest.approx(ideal, rel=1e-6)
    assert found.before < 0.95 * ideal


def test_other_blocks_of_the_weight_compete() -> None:
    whole = drawn("scaled rows", 64, 16, 0)
    rest = whole[32:].reshape(8, 4, 16).sum(1).ravel()
    kept = retained([Term(whole[:32], 4, density=0.5, rest=rest)], np.arange(32))
    assert kept == pytest.approx(by_mask(whole, "4x1", 0.5), rel=1e-5)


def test_same_seed_same_order() -> None:
    terms = [Term(drawn("clustered rows", 64, 32, 1), 4, density=0.5)]
    assert np.array_equal(search(terms, seed=7).order, search(terms, seed=7).order)
    assert np.array_equal(search(terms, effort=0).order, greedy(terms))
