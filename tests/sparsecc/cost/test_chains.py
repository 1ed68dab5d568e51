"""Chains that a calibration measures: bounded, seeded, joined, and what is counted of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sparsecc import targets
from sparsecc.backends.kernels.measured import chain_of
from sparsecc.backends.kernels.table import CHAIN_STAGES
from sparsecc.cost.calibration import Bench
from sparsecc.cost.chains import (
    DEEP_EVERY,
    MOST_BYTES,
    MOST_STAGES,
    MOST_WEIGHTS,
    Chain,
    chains,
    streamed,
)
from sparsecc.cost.rates import NOTHING, Sums
from sparsecc.cost.table import measured_as

FOUND = chains(60)


def test_they_are_the_same_every_time_and_differ() -> None:
    assert chains(60) == FOUND
    assert len(set(FOUND)) > 50


@pytest.mark.parametrize("chain", FOUND)
def test_each_stage_reads_what_the_one_before_makes(chain: Chain) -> None:
    works = [stage.call.work for stage in chain.stages]
    assert 2 <= len(works) <= MOST_STAGES <= CHAIN_STAGES
    for made, read in pairwise(works):
        assert made.rows * made.points == read.input_elements
        assert (made.groups > 1) != (read.groups > 1) or read.groups == made.groups == 1
    for stage, work in zip(chain.stages, works, strict=True):
        assert work.activation_bytes <= MOST_BYTES
        assert work.rows * work.cols <= MOST_WEIGHTS
        assert work.cols == work.input_elements // stage.side**2 // work.groups * stage.kernel**2
        assert 1 <= stage.call.blocks <= work.rows * work.cols


def test_some_are_deep_and_some_are_of_machine_code() -> None:
    deep = [c for c in FOUND if any(s.kernel > 1 and s.call.work.groups == 1 for s in c.stages)]
    assert len(FOUND) // DEEP_EVERY // 2 < len(deep) <= len(FOUND) // DEEP_EVERY
    pixels = {s.call.block for c in FOUND for s in c.stages if s.kernel == 1}
    assert pixels == {(4, 1), (16, 1), (1, 1)}
    assert not any(s.call.block == (1, 1) for c in deep for s in c.stages)


def test_values_are_counted_by_what_reads_them() -> None:
    chain = next(c for c in FOUND if len(c.stages) == 4 and c.stages[1].call.work.groups > 1)
    first, second, third, _ = (stage.call.work for stage in chain.stages)
    sizes = [work.rows * work.points for work in (first, second, third)]
    assert chain.streamed == Sums(3, sizes[0] + sizes[2], sizes[1])
    assert streamed([]) == streamed([first]) == NOTHING


def test_they_run_as_one_step_and_in_time() -> None:
    """A chain takes about what its layers take: the law that is fitted tells a correction."""
    native = measured_as(targets.get("native"))
    bench = Bench(native)
    ratios = []
    for seed, chain in enumerate(FOUND[:12]):
        one_by_one = sum(bench.ms(stage, seed) for stage in chain.stages)
        ratios.append(bench.step_ms(chain_of(chain.stages, native, seed)) / one_by_one)
    assert 0.3 < np.median(ratios) < 1.5
