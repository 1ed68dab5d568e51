"""The cost model: which table it takes, and what its estimates are worth."""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.cost import roofline
from sparsecc.cost.model import (
    ROOFLINE,
    UNMEASURED_SPREAD,
    Estimate,
    cost_model,
    model_of,
    total,
)
from sparsecc.cost.rates import Sums
from sparsecc.cost.roofline import Work
from sparsecc.cost.table import TABLE_FILE, own_path, read_table, shipped_path
from sparsecc.passes.weights.choose import BLOCKS
from sparsecc.targets import TARGETS, Target

V4 = TARGETS["x86-64-v4"]
CONV = Work(256, 256, 784, 1, 256 * 784, True)
LINEAR = Work(768, 768, 128, 1, 768 * 128, False)
UNKNOWN = dataclasses.replace(V4, name="unknown", ghz=1.5)
ESTIMATES = st.builds(Estimate, st.floats(1e-4, 10), st.floats(0, 1))


@pytest.fixture(autouse=True)
def no_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own_path(V4).parent.mkdir(parents=True)


def shipped(target: Target):
    path = shipped_path(target)
    assert path is not None
    return read_table(path, target)


def test_a_target_nothing_is_known_of_has_the_bare_roofline() -> None:
    model = cost_model(UNKNOWN)
    assert model.name == ROOFLINE
    assert model.dense(CONV) == Estimate(roofline.dense_ms(CONV, UNKNOWN), UNMEASURED_SPREAD)
    assert model.step("add", Sums(1, 1000)) is None
    assert model.streamed_ms(Sums(3, 1e6)) == 0


def test_the_table_that_comes_with_sparsecc_serves_until_the_user_has_one() -> None:
    table = shipped(V4)
    assert cost_model(V4).name == cost_model(TARGETS["x86-64"]).name == table.name
    own = table.model_copy(update={"machine": "mine", "peak_gflops": table.peak_gflops * 2})
    TABLE_FILE.save(own, own_path(V4))
    assert cost_model(V4).name == own.name != table.name
    assert cost_model(V4).target.peak_gflops == pytest.approx(own.peak_gflops)


def test_a_table_of_other_kernels_is_passed_over_with_a_warning() -> None:
    TABLE_FILE.save(shipped(V4).model_copy(update={"kernels": "0" * 16}), own_path(V4))
    with pytest.warns(RuntimeWarning, match="other kernels"):
        assert cost_model(V4).name == shipped(V4).name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cost_model(V4)  # it is told once


@pytest.mark.parametrize("name", TARGETS)
def test_estimates_are_times_on_every_target(name: str) -> None:
    model = cost_model(TARGETS[name])
    for work in (CONV, LINEAR, dataclasses.replace(LINEAR, points=1, input_elements=768)):
        found = [model.dense(work)]
        for block in () if model.why_not(work) else model.blocks or BLOCKS:
            cells = math.ceil(work.rows / block[0]) * math.ceil(work.cols / block[1])
            found.append(model.sparse(work, block, cells // 5, beside=True))
        for estimate in found:
            assert 0 < estimate.ms < 1e3
            assert 0 < estimate.spread <= 1


@pytest.mark.parametrize("work", [CONV, LINEAR])
@pytest.mark.parametrize("block", [(4, 1), (16, 1), (1, 1)])
def test_fewer_blocks_take_less_time(work: Work, block: tuple[int, int]) -> None:
    model = model_of(shipped(V4))
    cells = work.rows * work.cols // block[0]
    times = [model.sparse(work, block, int(cells * d)).ms for d in (0.05, 0.2, 0.5)]
    assert times == sorted(times)
    assert model.dense(work).ms > times[0] * 3


def test_alone_a_layer_pays_for_its_borders() -> None:
    model = cost_model(V4)
    alone, beside = (model.sparse(CONV, (4, 1), 3000, beside=b) for b in (False, True))
    assert alone.ms - beside.ms == pytest.approx(roofline.border_ms(CONV, (4, 1)))


def test_a_chain_saves_more_the_more_it_streams_to_depthwise_layers() -> None:
    model = model_of(shipped(V4))
    saved = [model.streamed_ms(sums) for sums in (Sums(1, 0, 1e5), Sums(1, 1e5), Sums(1, 4e5))]
    assert 0 < saved[0] < saved[1] < saved[2]
    pointwise = model.sparse(Work(128, 32, 3136, 1, 32 * 3136, True), (4, 1), 300, beside=True)
    assert saved[2] < pointwise.ms


@given(st.lists(ESTIMATES, max_size=20))
def test_a_total_is_as_sure_as_its_parts_at_least(parts: list[Estimate]) -> None:
    found = total(parts)
    assert found.ms == pytest.approx(sum(part.ms for part in parts))
    assert found.spread <= max((part.spread for part in parts), default=0) + 1e-9


def test_many_parts_are_surer_than_one() -> None:
    one = Estimate(1.0, 0.2)
    assert total([one]).spread == pytest.approx(0.2)
    assert total([one] * 100).spread == pytest.approx(0.11)
