from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.errors import PlanError
from sparsecc.formats.patterns import (
    DENSE,
    UNSTRUCTURED,
    Pattern,
    SparsitySpec,
    block_sums,
    detect,
    expand_blocks,
    keep_n_of_m,
    mask_from_scores,
)

examples = settings(deadline=None, max_examples=30, derandomize=True)
shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))
seeds = st.integers(0, 2**16)


@pytest.mark.parametrize("text", ["dense", "unstructured", "4x1", "64x1", "1x4", "1x16", "2:4"])
def test_pattern_text_round_trip(text: str) -> None:
    assert str(Pattern.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "pattern", "sparsity"),
    [
        ("4x1:0.8", Pattern("block", (4, 1)), 0.8),
        (" 16X1 : 90% ", Pattern("block", (16, 1)), 0.9),
        ("1x4:0.7", Pattern("block", (1, 4)), 0.7),
        ("unstructured:.5", UNSTRUCTURED, 0.5),
        ("0.8", UNSTRUCTURED, 0.8),
        ("80%", UNSTRUCTURED, 0.8),
        ("2:4", Pattern("nm", keep=2, group=4), 0.5),
        ("1:4", Pattern("nm", keep=1, group=4), 0.75),
        ("dense", DENSE, 0.0),
        ("existing", None, 0.0),
        ("8x1:0", Pattern("block", (8, 1)), 0.0),
    ],
)
def test_spec_parses(text: str, pattern: Pattern | None, sparsity: float) -> None:
    spec = SparsitySpec.parse(text)
    assert spec.pattern == pattern
    assert spec.sparsity == pytest.approx(sparsity)
    assert SparsitySpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "4x1",
        "4x1:",
        "3x1:0.5",
        "4x2:0.5",
        "1x1:0.5",
        "80",
        "4x1:80",
        "4x1:1",
        "4x1:-0.1",
        "4x1:nan",
        "0.8:4x1",
        "4:2",
        "0:4",
        "2:4:0.5",
        "2:400",
        "sparse",
        "4x1:0.5:0.5",
        "dense:0",
    ],
)
def test_impossible_specs_are_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        SparsitySpec.parse(text)
    assert caught.value.fix


@examples
@given(shapes, st.sampled_from(["unstructured", "4x1", "16x1", "1x4", "2x1"]), st.floats(0, 0.99))
def test_masks_drop_exactly_the_asked_number_of_whole_blocks(
    shape: tuple[int, int], text: str, sparsity: float
) -> None:
    pattern = Pattern.parse(text)
    scores = np.random.default_rng(0).random(shape)
    mask = mask_from_scores(scores, pattern, sparsity)
    held = block_sums(mask, pattern.block)
    full = block_sums(np.ones(shape), pattern.block)
    assert np.all((held == 0) | (held == full))
    assert np.count_nonzero(held == 0) == round(sparsity * held.size)
    dropped = block_sums(scores, pattern.block)[held == 0]
    kept = block_sums(scores, pattern.block)[held > 0]
    assert not dropped.size or not kept.size or dropped.max() <= kept.min()


@examples
@given(shapes, st.floats(0, 0.99))
def test_per_row_masks_drop_the_same_number_in_each_row(
    shape: tuple[int, int], sparsity: float
) -> None:
    scores = np.random.default_rng(1).random(shape)
    mask = mask_from_scores(scores, UNSTRUCTURED, sparsity, per_row=True)
    assert set(np.sum(~mask, axis=1)) == {round(sparsity * shape[1])}


@examples
@given(shapes, st.integers(1, 7), st.integers(2, 8), seeds)
def test_n_of_m_keeps_the_n_highest_of_each_m(
    shape: tuple[int, int], keep: int, group: int, seed: int
) -> None:
    keep = min(keep, group - 1)
    scores = np.random.default_rng(seed).standard_normal(shape)
    mask = keep_n_of_m(scores, keep, group)
    for start in range(0, shape[1], group):
        part, kept = scores[:, start : start + group], mask[:, start : start + group]
        assert set(kept.sum(axis=1)) == {min(keep, part.shape[1])}
        cut = np.sort(part, axis=1)[:, -min(keep, part.shape[1])]
        assert np.all(part[kept].reshape(shape[0], -1) >= cut[:, None])


def test_ties_fall_deterministically() -> None:
    mask = mask_from_scores(np.zeros((2, 4)), UNSTRUCTURED, 0.5)
    assert mask.tolist() == [[False] * 4, [True] * 4]


@examples
@given(
    st.sampled_from(["4x1", "8x1", "16x1", "2x1", "1x4", "1x8", "1x16", "unstructured"]),
    st.floats(0.3, 0.9),
    seeds,
    st.integers(0, 3),
)
def test_detect_finds_the_pattern_that_made_the_zeros(
    text: str, sparsity: float, seed: int, tail: int
) -> None:
    rng = np.random.default_rng(seed)
    pattern = Pattern.parse(text)
    shape = (64 + tail, 96 + tail)
    mask = mask_from_scores(rng.random(shape), pattern, sparsity)
    found = detect(np.where(mask, rng.standard_normal(shape), 0))
    assert found.pattern == pattern
    assert found.density == pytest.approx(mask.mean())
    assert found.block_density == pytest.approx(1 - sparsity, abs=0.01)


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8", "2:8", "1:2"])
def test_detect_finds_n_of_m(text: str) -> None:
    rng = np.random.default_rng(0)
    pattern = Pattern.parse(text)
    weight = rng.standard_normal((32, 64)) + 3
    mask = mask_from_scores(rng.random(weight.shape), pattern, 0)
    assert detect(np.where(mask, weight, 0)).pattern == pattern


def test_detect_tolerates_stray_zeros_inside_blocks() -> None:
    rng = np.random.default_rng(0)
    mask = mask_from_scores(rng.random((64, 64)), Pattern.parse("4x1"), 0.5)
    mask &= rng.random(mask.shape) > 0.005
    assert str(detect(mask.astype(float)).pattern) == "4x1"


def test_detect_degenerate_matrices() -> None:
    rng = np.random.default_rng(0)
    assert detect(np.zeros((8, 8))).pattern == UNSTRUCTURED
    assert detect(np.ones((8, 8))).pattern == DENSE
    few = np.ones((50, 50))
    few[0, 0] = 0
    assert detect(few).pattern == DENSE
    columns = rng.random((40, 40)) * (np.arange(40) % 3 == 0)
    assert str(detect(columns).pattern) == "16x1"
    rows = rng.random((40, 40)) * (np.arange(40) % 3 == 0)[:, None]
    assert str(detect(rows).pattern) == "1x16"
    scattered = columns * (rng.random((40, 40)) > 0.5)
    assert detect(scattered).pattern == UNSTRUCTURED


@examples
@given(shapes, st.sampled_from([(1, 1), (4, 1), (1, 4)]), seeds)
def test_expand_undoes_block_sums(
    shape: tuple[int, int], block: tuple[int, int], seed: int
) -> None:
    sums = block_sums(np.ones(shape), block)
    kept = np.random.default_rng(seed).random(sums.shape) > 0.5
    mask = expand_blocks(kept, block, shape)
    assert np.array_equal(block_sums(mask, block) > 0, kept)
