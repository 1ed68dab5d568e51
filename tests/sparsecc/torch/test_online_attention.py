"""Attention that searches while it samples, against the op, step by step."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsecc.errors import BackendError, PlanError
from sparsecc.ops import next_blocks
from sparsecc.ops.block_sparse_attention import attend
from sparsecc.search.attentions import PlanOnline
from sparsecc.torch.online_attention import OnlineAttention, Steps

BLOCK = 64
SAMPLING = PlanOnline(steps=5, full=1, searches=(1, 3), sparsity=0.6)


def online(full, searches, sparsity=0.6):
    return PlanOnline(steps=5, full=full, searches=searches, sparsity=sparsity)


def drawn(heads, tokens, seed, batch=1, group=1, dtype=torch.float64, features=64):
    torch.manual_seed(seed)
    sizes = (heads, heads // group, heads // group)
    made = [2 * torch.randn(batch, each, tokens, features) for each in sizes]
    return [each.to(dtype) for each in made]


@settings(max_examples=30)
@given(
    st.sampled_from([online(1, (1, 3)), online(0, (2, 4)), online(1, (3,)), online(2, (2,), 0.9)]),
    st.sampled_from([(2, 1), (3, 1), (4, 2)]),
    st.integers(1, 2),
    st.integers(65, 500),
    st.sampled_from([(0, 0), (5, 0), (0, 70)]),
    st.sampled_from([("sm_90", 64), ("sm_80", 128)]),  # tiles of as many keys, and of half as many
    st.integers(0, 99),
)
def test_every_step_is_that_of_the_op(plan, heads, batch, tokens, words, tiles, seed):
    (heads, group), (arch, features) = heads, tiles
    attention = OnlineAttention(heads, tokens, features, plan, words=words, arch=arch)
    steps = Steps(attention)
    blocks = -(-tokens // BLOCK)
    grid = (heads, blocks, blocks, BLOCK, BLOCK)
    index = np.full(heads * blocks**2, -1, np.int32)
    for step in range(plan.steps):
        q, k, v = drawn(heads, tokens, seed + step, batch, group, features=features)
        made = attention(q, k, v, 0.3)
        q, k, v = (each.numpy() for each in (q, k, v))
        index = next_blocks(
            *(q, k, index, step, grid),
            scale=0.3,
            full=plan.full,
            searches=plan.searches,
            sparsity=plan.sparsity,
            words=words,
        )
        wanted = attend(q, k, v, scale=0.3, blocks=(index, grid))
        np.testing.assert_allclose(made, wanted, rtol=1e-7, atol=1e-9)
    assert steps.calls == plan.steps


def sampled(module, seed=0):
    with torch.no_grad():
        tokens = [drawn(2, 300, seed + step, dtype=torch.float32) for step in range(5)]
        return [module(*each) for each in tokens]


def attention():
    return OnlineAttention(2, 300, 64, SAMPLING)


def test_compiles_as_a_graph_for_each_kind_of_step():
    made, graphs = attention(), []

    def counting(graph, _):
        graphs.append(graph)
        return graph.forward

    fast = torch.compile(made, fullgraph=True, backend=counting)
    steps = Steps(fast)
    got = sampled(fast)
    assert len(graphs) == 3
    steps.begin()
    torch.testing.assert_close(sampled(fast, 9), sampled_by(attention(), 9))
    torch.testing.assert_close(got, sampled_by(attention(), 0))
    assert len(graphs) == 3


def sampled_by(module, seed):
    Steps(module)
    return sampled(module, seed)


def test_aot_takes_what_is_written_to_buffers():
    made = attention()
    fast = torch.compile(made, fullgraph=True, backend="aot_eager")
    Steps(fast)
    torch.testing.assert_close(sampled(fast), sampled_by(attention(), 0))


def test_samplings_take_turns():
    both, alone = attention(), [attention(), attention()]
    Steps(both, samplings=2)
    for each in alone:
        Steps(each)
    with torch.no_grad():
        for step in range(5):
            for turn, each in enumerate(alone):
                tokens = drawn(2, 300, 10 * step + turn, dtype=torch.float32)
                assert torch.equal(both(*tokens), each(*tokens))
    with pytest.raises(PlanError, match="call 11 of 2 × 5 steps"):
        both(*tokens)


def test_a_copy_samples_by_itself_and_state_is_not_saved():
    one = attention()
    steps = Steps(one)
    assert not one.state_dict()
    tokens = drawn(2, 300, 0, dtype=torch.float32)
    for _ in range(2):
        wanted = one(*tokens)
    other = copy.deepcopy(one)
    for _ in range(3):
        assert torch.equal(other(*tokens), wanted)
    assert steps.calls == 2
    assert torch.equal(one(*tokens), wanted)


def test_calls_that_nothing_counts_and_too_many():
    made = attention()
    tokens = drawn(2, 300, 0, dtype=torch.float32)
    with pytest.raises(PlanError, match="nothing counts its steps"):
        made(*tokens)
    steps = Steps(made)
    sampled(made)
    with pytest.raises(PlanError, match="call 6 of 1 × 5 steps"):
        made(*tokens)
    steps.begin()
    made(*tokens)
    with pytest.raises(BackendError, match="4 heads of queries, the search is of 2"):
        made(*drawn(4, 300, 0))
    with pytest.raises(BackendError, match="of another attention"):
        made(*drawn(2, 301, 0))
    with pytest.raises(PlanError, match="no attention of the module searches"):
        Steps(nn.Linear(2, 2))
