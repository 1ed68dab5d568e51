"""The roofline: no exact figures, but the shape every use of it relies on."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.cost.roofline import (
    NODE_MS,
    Work,
    dense_ms,
    generates,
    sparse_efficiency,
    sparse_ms,
)
from sparsecc.passes.weights.choose import BLOCKS
from sparsecc.targets import TARGETS

targets = st.sampled_from(list(TARGETS.values()))
blocks = st.sampled_from(BLOCKS)


@st.composite
def works(draw: st.DrawFn) -> Work:
    rows, cols = draw(st.integers(1, 2048)), draw(st.integers(1, 4608))
    points = draw(st.integers(1, 12544))
    return Work(
        rows=rows,
        cols=cols,
        points=points,
        groups=1,
        input_elements=draw(st.integers(1, cols)) * points,
        is_conv=draw(st.booleans()),
    )


def all_blocks(work: Work, block: tuple[int, int]) -> int:
    return math.ceil(work.rows / block[0]) * math.ceil(work.cols / block[1])


def at_density(work: Work, density: float, block=(4, 1), target=TARGETS["x86-64-v4"]) -> float:
    return sparse_ms(work, block, round(density * all_blocks(work, block)), target)


CONV = Work(256, 256, 784, 1, 256 * 784, True)
LINEAR = Work(768, 768, 128, 1, 768 * 128, False)
ONE_TOKEN = Work(768, 768, 1, 1, 768, False)


@given(work=works(), block=blocks, target=targets, data=st.data())
def test_more_blocks_never_cost_less(work, block, target, data) -> None:
    most = all_blocks(work, block)
    fewer, more = sorted(data.draw(st.integers(0, most)) for _ in range(2))
    assert sparse_ms(work, block, fewer, target) <= sparse_ms(work, block, more, target) * (
        1 + 1e-9
    )


@given(work=works(), block=blocks, target=targets)
def test_times_are_finite_and_at_least_those_of_a_node(work, block, target) -> None:
    for time in (dense_ms(work, target), *(sparse_ms(work, block, n, target) for n in (0, 1))):
        assert NODE_MS <= time < math.inf


@given(work=works(), target=targets, factor=st.integers(2, 5))
def test_more_of_anything_never_costs_less_dense(work, target, factor) -> None:
    for name in ("rows", "cols", "points"):
        larger = dataclasses.replace(work, **{name: getattr(work, name) * factor})
        assert dense_ms(work, target) <= dense_ms(larger, target) * (1 + 1e-9)


@pytest.mark.parametrize("work", [CONV, LINEAR], ids=["conv", "linear"])
@pytest.mark.parametrize("name", TARGETS)
def test_a_dense_weight_never_pays_sparse(work: Work, name: str) -> None:
    target = TARGETS[name]
    for block in BLOCKS:
        assert sparse_ms(work, block, all_blocks(work, block), target) > dense_ms(work, target)


@pytest.mark.parametrize("work", [CONV, LINEAR], ids=["conv", "linear"])
@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4"])
def test_it_breaks_even_where_measurements_do(work: Work, name: str) -> None:
    """4×1 pays clearly at 20 % density and no longer at 95 %."""
    target = TARGETS[name]
    dense = dense_ms(work, target)
    assert at_density(work, 0.95, target=target) > 0.97 * dense
    assert 2 < dense / at_density(work, 0.2, target=target) < 5
    assert 3 < dense / at_density(work, 0.1, target=target) < 10


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", TARGETS)
def test_a_neighbour_in_the_library_makes_a_layer_cheaper(
    block: tuple[int, int], name: str
) -> None:
    for density in (0.1, 0.5, 1.0):
        blocks = round(density * all_blocks(CONV, block))
        alone, beside = (
            sparse_ms(CONV, block, blocks, TARGETS[name], beside=each) for each in (False, True)
        )
        assert beside < alone - NODE_MS


def test_blocks_beat_single_weights_at_the_same_density() -> None:
    four, one = (at_density(CONV, 0.2, block) for block in ((4, 1), (1, 1)))
    assert four < one


@pytest.mark.parametrize("work", [CONV, LINEAR], ids=["conv", "linear"])
def test_generated_code_is_about_twice_as_fast_as_reading_positions(work: Work) -> None:
    grouped = dataclasses.replace(work, groups=2)
    for density in (0.1, 0.2, 0.5):
        code, data = (at_density(w, density, (1, 1)) for w in (work, grouped))
        assert 1.3 < data / code < 3


def test_generated_code_is_for_single_weights_of_many_points() -> None:
    v4, v3 = TARGETS["x86-64-v4"], TARGETS["x86-64-v3"]
    assert generates((1, 1), 1, None, v4)
    assert generates((1, 1), 1, 5, TARGETS["x86-64"])
    assert not generates((1, 1), 1, 4, v4)
    assert not generates((1, 1), 2, None, v4)
    assert not generates((4, 1), 1, None, v4)
    assert not generates((1, 1), 1, None, v3)


def test_one_token_is_bound_by_reading_weights() -> None:
    target = TARGETS["x86-64-v4"]
    half = tuple(gbs / 2 for gbs in target.bandwidths)
    slower = dataclasses.replace(target, bandwidths=half)
    assert dense_ms(ONE_TOKEN, slower) > 1.5 * dense_ms(ONE_TOKEN, target)
    assert dense_ms(CONV, slower) == dense_ms(CONV, target)
    assert dense_ms(ONE_TOKEN, target) / at_density(ONE_TOKEN, 0.1) > 3


def test_a_small_tail_costs_a_whole_vector() -> None:
    def points(number: int) -> float:
        return at_density(Work(256, 2304, number, 1, 256 * number, True), 0.2) - NODE_MS

    assert points(17) > 1.5 * points(16)
    assert points(784 - 1) == pytest.approx(points(784), rel=0.01)


def test_tiny_layers_cost_their_node() -> None:
    tiny = Work(8, 8, 1, 1, 8, False)
    assert dense_ms(tiny, TARGETS["x86-64"]) == pytest.approx(NODE_MS, rel=0.01)


def test_every_block_has_an_efficiency_below_peak() -> None:
    for block in BLOCKS:
        for beside in (False, True):
            assert 0.3 < sparse_efficiency(block, beside=beside).eta <= 0.95
    assert sparse_efficiency((16, 1)).eta >= sparse_efficiency((4, 1)).eta
    assert sparse_efficiency((4, 1)).eta > sparse_efficiency((1, 1)).eta


def test_sums() -> None:
    assert (CONV.macs, CONV.activation_bytes) == (256 * 256 * 784, 4 * 2 * 256 * 784)
