"""Times of heads before they are run."""

import numpy as np
import pytest

from sparsecc import targets
from sparsecc.cost.model import model_of
from sparsecc.cost.table import read_table, shipped_path
from sparsecc.passes.attention import estimate
from sparsecc.passes.attention.estimate import head_ms
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
