"""The search in torch against the meaning of the op, and its lists against those of a plan."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.backends.cuda.tiles import pack
from sparsecc.ops import attention_search as op
from sparsecc.torch.block_search import block_masses, choose_blocks, listed_blocks, most_blocks

BLOCK = 64


@given(
    st.integers(1, 2),
    st.sampled_from([1, 2]),
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 20),
    st.sampled_from([0.1, 1.0, 9.0, -1.0]),
    st.integers(0, 99),
)
def test_masses_are_those_of_the_op(batch, group, queries, keys, block, scale, seed):
    draws = np.random.default_rng(seed)
    q = draws.standard_normal((batch, 2 * group, queries, 5))
    k = draws.standard_normal((batch, 2, keys, 5))
    grid = (2 * group, -(-queries // block), -(-keys // block), block, block)
    made = block_masses(torch.from_numpy(q), torch.from_numpy(k), block, scale)
    np.testing.assert_allclose(made, op.block_masses(q, k, grid, scale), rtol=1e-9, atol=1e-12)


@given(
    st.integers(1, 7),
    st.integers(1, 9),
    st.sampled_from([(0, 0), (1, 0), (0, 70), (200, 0), (9999, 0)]),
    st.sampled_from([0.0, 0.3, 0.8, 0.95]),
    st.sampled_from([1, 3, 1000]),
    st.booleans(),
    st.integers(0, 999),
)
def test_chosen_blocks_are_those_of_the_op(heads, blocks, words, sparsity, kinds, peaked, seed):
    """With equal masses among them, which keep their order, and heads that differ."""
    draws = np.random.default_rng(seed)
    tokens = max(1, BLOCK * blocks - draws.integers(0, BLOCK))
    masses = draws.integers(1, kinds + 1, (heads, blocks, blocks)).astype(np.float32)
    if peaked:
        masses[draws.integers(0, heads, heads // 2 + 1)] **= 12
    masses *= BLOCK / masses.sum(-1, keepdims=True)
    grid = (heads, blocks, blocks, BLOCK, BLOCK)
    wanted = op.choose_blocks(masses, (tokens, tokens, tokens), grid, sparsity, words)
    held = op.blocks_of_words(tokens, BLOCK, words)
    counts = op.kept_counts(sparsity, int((~held).sum()))
    made = choose_blocks(torch.from_numpy(masses), tokens, torch.from_numpy(held), counts)
    assert np.array_equal(made, wanted)
    assert wanted.sum() <= most_blocks(heads, int(held.sum()), blocks, counts)


def test_the_most_blocks_are_reached():
    masses = torch.full((4, 9, 9), BLOCK / 9)
    masses[:2] = BLOCK * torch.eye(9)[4]  # two heads can do with fewer blocks
    counts = op.kept_counts(0.8, 7)
    words = torch.zeros(9, dtype=torch.bool)
    words[[0, 8]] = True
    kept = choose_blocks(masses, 9 * BLOCK, words, counts)
    assert kept.sum() == most_blocks(4, 2, 9, counts)


@given(
    st.integers(1, 3),
    st.integers(1, 400),
    st.sampled_from([32, 64]),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.integers(0, 99),
)
def test_lists_are_those_of_a_plan(heads, tokens, columns, share, seed):
    blocks = -(-tokens // BLOCK)
    kept = np.random.default_rng(seed).random((heads, blocks, blocks)) < share
    room = heads * blocks * blocks * BLOCK // columns + 3
    made = listed_blocks(torch.from_numpy(kept), BLOCK, columns, tokens, room)
    order, starts, full, at = (each.numpy() for each in made)
    wanted = pack(tokens, tokens, (BLOCK, columns), kept=kept)
    assert np.array_equal(starts, wanted.starts)
    assert np.array_equal(full, wanted.full)
    assert np.array_equal(order, wanted.order(heads))
    count = starts[-1]
    assert np.array_equal(at[:count], wanted.at[:count])
    assert len(at) == room + 1
    assert not at[count:].any()
    assert {each.dtype for each in made} == {torch.int32}


def test_torch_accepts_the_operator():
    q, k = torch.randn(1, 4, 70, 64), torch.randn(1, 2, 70, 64)
    torch.library.opcheck(block_masses, (q, k, BLOCK, 0.1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_masses_of_other_types_are_float32(dtype):
    q = torch.randn(1, 1, 70, 64).to(dtype)
    made = block_masses(q, q, BLOCK, 0.1)
    assert made.dtype == torch.float32
    assert made.sum() == pytest.approx(70, rel=1e-5)
