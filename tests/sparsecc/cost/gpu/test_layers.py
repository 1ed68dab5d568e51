"""Times of layers and attention on GPUs: what must grow with what, and where sparse must pay."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.cost.gpu.bounds import bound
from sparsecc.cost.gpu.layers import TILES, Scores, attention
from sparsecc.cost.gpu.weights import blocks_served, why_not
from sparsecc.cost.model import CostModel, cost_model
from sparsecc.cost.roofline import Work
from sparsecc.targets import TARGETS

GPUS = tuple(target for target in TARGETS.values() if target.family == "cuda")
gpus = st.sampled_from([cost_model(target) for target in GPUS])
sizes = st.integers(1, 8192)
shares = st.floats(0.01, 1)
SLACK = 1 + 1e-9


def linear(rows: int, cols: int, tokens: int) -> Work:
    return Work(rows, cols, tokens, 1, cols * tokens, is_conv=False)


def stored(work: Work, block: tuple[int, int], density: float) -> int:
    return max(1, round(math.ceil(work.rows / block[0]) * work.cols * density / block[1]))


@given(gpus, sizes, sizes, st.integers(1, 20_000))
def test_dense_is_never_above_the_peak_or_the_bandwidth(
    costs: CostModel, rows: int, cols: int, tokens: int
) -> None:
    work, gpu = linear(rows, cols, tokens), costs.target
    ms = costs.library(work).ms
    moved = 2 * (rows * cols + tokens * (rows + cols))
    assert ms >= 2e-9 * work.macs / gpu.tensor_tflops
    assert ms >= moved / gpu.dram_gbs * 1e-6
    assert ms >= 0.003


@given(gpus, st.integers(256, 8192), st.integers(256, 8192), st.integers(1, 4096))
def test_twice_the_rows_inputs_or_tokens_take_longer(
    costs: CostModel, rows: int, cols: int, tokens: int
) -> None:
    """But for what tiles leave over, and splits, which come in steps."""
    ms = costs.library(linear(rows, cols, tokens)).ms
    for larger in ((2, 1, 1), (1, 2, 1), (1, 1, 2)):
        work = linear(rows * larger[0], cols * larger[1], tokens * larger[2])
        assert ms <= costs.library(work).ms * 1.05


@given(gpus, st.sampled_from(blocks_served()), sizes, sizes, st.integers(1, 4096), shares, shares)
def test_more_stored_blocks_take_longer(
    costs: CostModel,
    block: tuple[int, int],
    rows: int,
    cols: int,
    tokens: int,
    one: float,
    other: float,
) -> None:
    work = linear(rows, cols, tokens)
    fewer, more = sorted(stored(work, block, share) for share in (one, other))
    launch = 2 * 0.004  # parts of a longer sum are added by another launch
    assert costs.sparse(work, block, fewer).ms <= costs.sparse(work, block, more).ms + launch


@given(gpus, st.sampled_from(TILES), st.sampled_from((64, 128)), shares, shares)
def test_more_kept_scores_take_longer(
    costs: CostModel, tall: int, features: int, one: float, other: float
) -> None:
    tokens, arch = 8192, costs.target.name.removeprefix("cuda-")
    times = [
        costs.task(
            attention(Scores(24, tokens, tokens, features, share * tokens**2), arch, tall=tall)
        ).ms
        for share in sorted((one, other))
    ]
    assert times[0] <= times[1] * SLACK


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_a_large_dense_product_reaches_the_share_that_is_assumed(gpu) -> None:
    costs, work = cost_model(gpu), linear(8192, 8192, 8192)
    share = 2e-9 * work.macs / gpu.tensor_tflops / costs.library(work).ms
    assert share == pytest.approx({"sm_80": 0.85, "sm_90": 0.7}[gpu.name[-5:]], rel=0.1)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_attention_of_the_issue(gpu) -> None:
    """24 heads of 128 features over 32,768 tokens: 13.2 TFLOP dense."""
    costs, tokens, arch = cost_model(gpu), 32768, gpu.name.removeprefix("cuda-")
    every = Scores(24, tokens, tokens, 128, float(tokens**2))
    dense = costs.task(attention(every, arch, tall=128, dense=True)).ms
    share = {"sm_80": 0.65, "sm_90": 0.6}[arch]
    assert dense == pytest.approx(13.2e3 / gpu.tensor_tflops / share, rel=0.05)
    fifth = dataclasses.replace(every, kept=0.2 * tokens**2)
    assert 3 < dense / costs.task(attention(fifth, arch, tall=128)).ms < 5
    ours = costs.task(attention(every, arch, tall=128)).ms
    assert ours > dense  # nothing is skipped: the library's kernel is the quicker one


def test_exponentials_bound_small_heads() -> None:
    """On an H100 16 a cycle against 4096 operations: as long as the products of 64 features."""
    gpu, tokens = TARGETS["cuda-sm_90"], 8192
    wanted = Scores(96, tokens, tokens, 64, float(tokens**2))
    (each,) = attention(wanted, "sm_90", tall=128).launches
    parts = [
        bound(dataclasses.replace(each, demand=dataclasses.replace(each.demand, **without)), gpu)
        for without in ({"exponentials": 0.0}, {"flops": 0.0, "issued": 0.0})
    ]
    assert parts[0].matrix == pytest.approx(parts[1].issue, rel=0.01)


def test_one_long_row_of_tiles_is_waited_for() -> None:
    even = Scores(1, 8192, 8192, 128, 0.1 * 8192**2)
    uneven = dataclasses.replace(even, longest=10.0)
    costs = cost_model(TARGETS["cuda-sm_90"])
    times = [costs.task(attention(each, "sm_90", tall=128)).ms for each in (even, uneven)]
    assert times[1] > 5 * times[0]


@given(gpus, st.integers(1, 512), st.integers(1, 512), st.integers(1, 4096))
def test_artifacts_have_a_kernel_of_ours_for_dense_layers(
    costs: CostModel, rows: int, sixteenths: int, tokens: int
) -> None:
    work = linear(16 * rows, 16 * sixteenths, tokens)
    assert costs.dense(work).ms >= 2e-9 * work.macs / costs.target.tensor_tflops
    odd = linear(16 * rows, 16 * sixteenths + 1, tokens)
    assert costs.dense(odd) == costs.library(odd)  # it does not take so many inputs


def test_large_layers_are_quicker_in_a_library() -> None:
    for gpu in GPUS:
        costs, work = cost_model(gpu), linear(8192, 8192, 8192)
        assert costs.library(work).ms < costs.dense(work).ms < 2 * costs.library(work).ms


def test_there_are_no_sparse_convolutions() -> None:
    work = Work(64, 576, 3136, 1, 64 * 3136, is_conv=True)
    assert "convolutions" in why_not(work)
    assert cost_model(GPUS[0]).sparse(work, (16, 1), 4).ms == math.inf
    assert cost_model(GPUS[0]).sparse(linear(64, 64, 64), (3, 7), 4).ms == math.inf
