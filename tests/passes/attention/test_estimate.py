"""Times of heads before they are run."""

import numpy as np
import pytest

from sparsecc import targets
from sparsecc.cost.model import model_of
from sparsecc.cost.table import read_table, shipped_path
from sparsecc.passes.attention import estimate
from sparsecc.passes.attention.estimate import Size, dense_ms, head_ms, kept_ms, why_not
from sparsecc.passes.attention.modes import Grid, Pattern, full, multi_diagonal, skip

TARGET = targets.read("x86-64-v4")
DIM, BLOCK = 64, 64
MEASURED = {  # ms of eight heads in one thread, of `python -m benchmarks.attention`
    (4096, 1.0): 165.8,
    (4096, 0.5): 86.9,
    (4096, 0.2): 37.1,
    (4096, 0.1): 19.9,
    (4096, 0.05): 11.3,
    (8192, 1.0): 672.2,
    (8192, 0.5): 340.8,
    (8192, 0.2): 143.8,
    (8192, 0.1): 74.1,
    (8192, 0.05): 40.5,
}


def keeping(tokens, share):
    """A head that keeps this share of its blocks."""
    kept = np.zeros((tokens // BLOCK,) * 2, bool)
    kept.flat[: round(share * kept.size)] = True
    return Pattern("vertical", BLOCK, kept)


@pytest.fixture
def shipped(monkeypatch):
    """The table that comes with sparsecc, whatever was calibrated here."""
    path = shipped_path(TARGET)
    assert path is not None
    monkeypatch.setattr(estimate, "cost_model", lambda target: model_of(read_table(path, target)))


@pytest.mark.parametrize(("tokens", "share"), MEASURED)
def test_heads_take_what_was_measured(shipped, tokens, share):
    """To 15 %."""
    found = 8 * head_ms(keeping(tokens, share), tokens, DIM, TARGET)
    assert found == pytest.approx(MEASURED[tokens, share], rel=0.15)


def test_the_order_of_tokens_costs_nothing():
    """The step reads them where they lie."""
    grid = Grid(4, 8, 8)
    ordered = multi_diagonal(grid, BLOCK, 1)
    assert ordered.order is not None
    plain = Pattern("diagonal", BLOCK, ordered.kept)
    assert head_ms(ordered, grid.tokens, DIM, TARGET) == head_ms(plain, grid.tokens, DIM, TARGET)


def test_a_head_that_keeps_nothing_takes_no_time():
    grid = Grid(4, 8, 8)
    assert head_ms(skip(grid, BLOCK), grid.tokens, DIM, TARGET) == 0
    assert head_ms(full(grid, BLOCK), grid.tokens, DIM, TARGET) > 0


GPUS = [target for target in targets.TARGETS.values() if target.family == "cuda"]


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_a_gpu_takes_the_time_of_the_tiles_it_keeps(gpu):
    grid = Grid(2, 32, 64)
    tokens, dim = grid.tokens, 128
    whole = head_ms(full(grid, BLOCK), tokens, dim, gpu)
    places = np.arange(tokens // BLOCK)
    band = abs(places[:, None] - places) < 8
    pairs = (band[::2] | band[1::2]).repeat(2, axis=0)
    one, two = (
        head_ms(Pattern("diagonal", BLOCK, kept), tokens, dim, gpu) for kept in (band, pairs)
    )
    # tiles of 128 queries read the blocks of both of their rows
    assert 0.9 * two < one <= two < 0.5 * whole
    more = band.copy()
    more[:4] = True
    assert head_ms(Pattern("diagonal", BLOCK, more), tokens, dim, gpu) > 1.03 * one


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_a_gpu_has_the_same_kernel_for_all_scores(gpu):
    size = Size(1, 24, 8192, 8192, 128)
    assert dense_ms(size, gpu).ms == kept_ms(size, size.scores, gpu).ms
    assert kept_ms(size, 0.2 * size.scores, gpu).ms < 0.25 * dense_ms(size, gpu).ms


def test_heads_of_other_features_have_no_kernel_on_a_gpu():
    for gpu in GPUS:
        assert why_not(80, gpu) == "kernels for GPUs are for heads of 64 or 128 features, not 80"
        assert not why_not(64, gpu)
        assert dense_ms(Size(1, 8, 1024, 1024, 80), gpu).ms > 0  # there may be one
    assert not why_not(80, TARGET)
