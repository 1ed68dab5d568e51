"""Occupancy, waves and bounds of launches, against figures worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.backends.cuda.table import KERNELS
from sparsecc.cost.gpu.bounds import (
    LATENCY_S,
    Demand,
    Launched,
    Resources,
    Task,
    bound,
    ms_of,
    resident,
    waves,
)
from sparsecc.cost.gpu.coefficients import assumed
from sparsecc.cost.gpu.layers import resources
from sparsecc.errors import TargetError
from sparsecc.targets import TARGETS
from sparsecc.targets.cuda import MULTIPROCESSORS

A100, H100 = TARGETS["cuda-sm_80"], TARGETS["cuda-sm_90"]
ARCHS = tuple(MULTIPROCESSORS)


@pytest.mark.parametrize(
    ("how", "sm_80", "sm_90"),
    [
        # 255 registers are 8160, in units of 256 8192: two warps of each scheduler's 16384
        (Resources(warps=8, stages=1, registers=255, shared=0), 1, 1),
        (Resources(warps=4, stages=1, registers=255, shared=0), 2, 2),
        # 32 are 1024 a warp: 64 warps, which are as many as may be
        (Resources(warps=4, stages=1, registers=32, shared=0), 16, 16),
        # 168 are 5376: three warps of each scheduler, so that a program of eight leaves four
        (Resources(warps=8, stages=1, registers=168, shared=0), 1, 1),
        # 48 KiB and the KiB that the system takes, of 164 and of 228
        (Resources(warps=4, stages=1, registers=64, shared=48 << 10), 3, 4),
        (Resources(warps=1, stages=1, registers=32, shared=0), 32, 32),  # no more programs
    ],
)
def test_programs_of_a_multiprocessor(how: Resources, sm_80: int, sm_90: int) -> None:
    assert [resident(how, MULTIPROCESSORS[arch]) for arch in ARCHS] == [sm_80, sm_90]


def test_what_does_not_fit_says_so() -> None:
    how = Resources(warps=4, stages=9, registers=64, shared=200 << 10)
    assert resident(how, MULTIPROCESSORS["sm_90"]) == 1
    with pytest.raises(TargetError, match="204800 bytes of shared memory does not fit") as caught:
        resident(how, MULTIPROCESSORS["sm_80"])
    assert "fewer stages" in str(caught.value)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_row_of_the_table_fits(arch: str) -> None:
    for kernel in KERNELS.values():
        if arch in kernel.launches:
            how = resources(kernel.launches[arch])
            assert resident(how, MULTIPROCESSORS[arch]) >= 1, kernel.name


@pytest.mark.parametrize(
    ("programs", "held", "warps", "wanted"),
    [
        (100, 1, 8, 1.0),  # one each
        (101, 1, 8, 2 * 100 / 101),  # one more makes another wave
        (150, 2, 8, 2 * 100 / 150),  # two on half of them
        (200, 2, 4, 1.0),  # two of four warps are as quick as one of eight
        (100, 2, 4, 2.0),  # one of four warps leaves half of the time
        (300, 2, 4, (2 + 1 * 2) * 100 / 300),  # a full wave, and one that is half empty
        (1, 4, 8, 100.0),
    ],
)
def test_waves(programs: int, held: int, warps: int, wanted: float) -> None:
    assert waves(programs, held, warps, 100) == pytest.approx(wanted)


@given(st.integers(1, 10**6), st.integers(1, 16), st.integers(1, 16), st.integers(1, 200))
def test_no_wave_is_better_than_full_and_many_are_near(
    programs: int, held: int, warps: int, count: int
) -> None:
    found = waves(programs, held, warps, count)
    assert found >= 1 / min(1.0, held * warps / 8) - 1e-9
    assert waves(programs * 10**7, held, warps, count) == pytest.approx(
        1 / min(1.0, held * warps / 8), rel=1e-3
    )


def test_the_longest_program_bounds_unequal_ones() -> None:
    assert waves(1000, 1, 8, 100, longest=1.5) == 1.0  # started first, it ends in time
    assert waves(1000, 1, 8, 100, longest=20.0) == pytest.approx(2.0)  # and twice as late
    assert waves(1000, 1, 4, 100, longest=20.0) == pytest.approx(4.0)  # alone, at half the speed


HOW = Resources(warps=8, stages=3, registers=128, shared=96 << 10)


def launched(**what: float) -> Launched:
    return Launched(Demand(A100.threads, **what), HOW)


def test_each_bound_by_hand() -> None:
    """One program on each multiprocessor of an A100, whose figures are those of its data sheet."""
    clocks = 108 * 1.41e9
    by_hand = {
        "flops": 312e12,
        "issued": 4 * clocks,
        "exponentials": 16 * clocks,
        "lines": 4 * clocks,
    }
    for name, rate in by_hand.items():
        found = bound(launched(**{name: 1e9}), A100)
        assert max(found.matrix, found.issue) == pytest.approx(1e12 / rate)
    assert bound(launched(read=2.039e9), A100).memory == pytest.approx(1.0)
    assert bound(launched(again=5e9), A100).memory == pytest.approx(1.0)
    gained = dataclasses.replace(launched(flops=312e9), gain=2.0)
    assert bound(gained, A100).matrix == pytest.approx(0.5)


def test_few_programs_do_not_reach_the_bandwidth() -> None:
    one = Launched(Demand(1, read=1e9), HOW)
    slow = 1e9 / ((96 << 10) / LATENCY_S) * 1e3
    assert bound(one, A100).memory == pytest.approx(slow)
    assert slow > 10 * bound(launched(read=1e9), A100).memory


def test_a_task_is_the_sum_of_its_launches() -> None:
    known = assumed("sm_80")
    flops, read = launched(flops=312e9), launched(read=2.039e9)
    task = Task("columns", (flops, read))
    assert ms_of(task, A100, known) == pytest.approx(2 * 0.004 + 1 / 0.6 + 1 / 0.8)
    nothing = Launched(Demand(0), HOW)
    assert bound(nothing, H100) == (0, 0, 0)


def test_another_architecture_is_an_error_that_names_ours() -> None:
    other = dataclasses.replace(H100, name="cuda-sm_100")
    with pytest.raises(TargetError, match="cuda-sm_100") as caught:
        bound(launched(), other)
    assert "sm_80, sm_90" in str(caught.value)
