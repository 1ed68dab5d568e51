"""The kernel that weighs blocks, interpreted, against float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from sparsecc.backends.cuda.interpret import interpret
from sparsecc.errors import BackendError
from sparsecc.ops import attention_search
from sparsecc.torch.block_search import masses_by_kernel

BLOCK = 64


def by_kernel(q, k, scale, arch="sm_90", block=BLOCK):
    def start(kernel, grid, arguments):
        arguments["Masses"].fill_(math.nan)
        interpret(kernel, arch, grid, arguments)
        assert arguments["Masses"].isfinite().all()

    return masses_by_kernel(start, arch, q, k, block, scale)


def expected(q, k, scale):
    blocks = (-(-each.shape[2] // BLOCK) for each in (q, k))
    grid = (q.shape[1], *blocks, BLOCK, BLOCK)
    return attention_search.block_masses(q.double().numpy(), k.double().numpy(), grid, scale)


@given(
    st.integers(1, 2),
    st.sampled_from([1, 2]),
    st.integers(1, 2),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([64, 128]),
    st.sampled_from([torch.float16, torch.bfloat16]),
    st.sampled_from([0.125, 1.0, -0.3, 0.0]),
    st.integers(0, 99),
)
def test_masses_are_those_of_a_softmax_in_float64(
    batch, group, shared, queries, keys, features, dtype, scale, seed
):
    torch.manual_seed(seed)
    q, k = (  # tokens before heads, as a projection leaves them
        torch.randn(batch, tokens, heads, features).to(dtype).transpose(1, 2)
        for heads, tokens in ((group * shared, queries), (shared, keys))
    )
    wanted = expected(q, k, scale)
    assert np.abs(by_kernel(q, k, scale).numpy() - wanted).max() <= 2e-5 * BLOCK * batch


def test_what_is_no_number_has_no_mass():
    q = torch.randn(1, 2, 64, 64).half()
    q[:, 1] = math.nan
    made = masses_by_kernel(
        lambda kernel, grid, given: interpret(kernel, "sm_80", grid, given), "sm_80", q, q, 64, 0.1
    )
    assert made.flatten().tolist() == [pytest.approx(64), 0]


def test_blocks_that_no_kernel_has():
    with pytest.raises(BackendError, match="blocks of 32 tokens"):
        by_kernel(*torch.zeros(2, 1, 1, 64, 64).half(), 1.0, block=32)
    with pytest.raises(BackendError, match="96 float16 features"):
        by_kernel(*torch.zeros(2, 1, 1, 64, 96).half(), 1.0)
