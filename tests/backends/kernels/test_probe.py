"""Steps timed in this process: every measured row runs, and what is refused is told."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sparsecc import targets
from sparsecc.backends.kernels.measured import rate_cases, rows_of, step_of
from sparsecc.backends.kernels.probe import Probe
from sparsecc.backends.onnxruntime.dense_probe import dense_times
from sparsecc.cost.rates import OF_STEPS
from sparsecc.cost.shapes import shapes
from sparsecc.cost.table import measured_as
from sparsecc.errors import BackendError

NATIVE = measured_as(targets.get("native"))
ROWS = rows_of(NATIVE)


@pytest.fixture(scope="module")
def probe() -> Probe:
    return Probe(NATIVE.isas[-1], NATIVE.triple, 1 << 20, 1 << 21)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_timed(probe: Probe, row) -> None:
    for seed, shape in enumerate(shapes(row, NATIVE, 3)):
        if shape.call.is_dense:
            times = dense_times(shape, 3, probe.chill)
        else:
            times = probe.times(step_of(shape, NATIVE, seed), 3)
        assert times.shape == (3,)
        assert (times >= 0).all()
        assert (times < 1e3).all()


@pytest.mark.parametrize("kind", OF_STEPS)
def test_every_rate_of_a_step_has_steps(probe: Probe, kind) -> None:
    cases = rate_cases(kind)
    assert len({case.elements for case in cases}) > 3
    for case in cases[:2]:
        assert (probe.times(case.step, 2) > 0).all()


def test_what_the_library_refuses_is_told(probe: Probe) -> None:
    row = next(row for row in ROWS if row.family == "conv")
    step = step_of(shapes(row, NATIVE, 1)[0], NATIVE, 0)
    with pytest.raises(BackendError, match=r"chain: .*malformed"):
        probe.times(dataclasses.replace(step, attributes=step.attributes[:-1]), 1)
    probe.times(step, 1)


def test_the_clock_runs_as_fast_as_this_process_thinks(probe: Probe) -> None:
    again = Probe(NATIVE.isas[-1], NATIVE.triple, 1 << 20, 1 << 20)
    assert again.ms_per_tick == pytest.approx(probe.ms_per_tick, rel=0.05)
    assert np.isfinite(probe.ms_per_tick)
