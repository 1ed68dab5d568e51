"""A calibration of this machine, with a few shapes of each kernel."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sparsecc import targets
from sparsecc.backends.kernels.measured import rows_of
from sparsecc.cost import calibration
from sparsecc.cost.calibration import calibrate, derived
from sparsecc.cost.correction import LEAST_SAMPLES
from sparsecc.cost.families import FAMILIES
from sparsecc.cost.model import cost_model
from sparsecc.cost.rates import KINDS, Sums
from sparsecc.cost.table import TABLE_FILE, measured_as, own_path, read_table
from sparsecc.errors import TargetError
from sparsecc.targets import TARGETS

FEW = 2


class StoppedError(Exception):
    pass


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few quick shapes; the built kernels come from the cache all the same."""
    built = calibration.Probe
    native = measured_as(targets.get("native"))
    probe = calibration.Bench(native).probe
    peaks = calibration.peak.Probe(calibration.ISAS[native.isas[-1]])
    monkeypatch.setattr(calibration, "Probe", lambda *_: probe)
    monkeypatch.setattr(calibration.peak, "Probe", lambda _: peaks)
    assert built is not calibration.Probe
    counts = {"SAMPLES": FEW, "ALONE": LEAST_SAMPLES // FEW, "CHAINS": 2, "NETWORKS": 2}
    for name, value in counts.items():
        monkeypatch.setattr(calibration, name, value)
    monkeypatch.setattr(calibration, "SHAPE_MS", 0.1)
    monkeypatch.setattr(calibration, "LEAST_RUNS", 1)
    monkeypatch.setattr(calibration, "NETWORK_RUNS", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_calibration_goes_on_where_it_stopped(few: None) -> None:
    native = measured_as(targets.get("native"))
    rows = rows_of(native)
    partial = own_path(native).with_suffix(".partial.json")

    def stop(step: str, share: float) -> None:
        if rows[3].name in step:
            raise StoppedError

    with pytest.raises(StoppedError):
        calibrate(progress=stop)
    begun = read_table(partial, native)
    assert list(begun.rows) == [row.name for row in rows[:3]]

    told: list[tuple[str, float]] = []
    path = calibrate(progress=lambda step, share: told.append((step, share)))
    assert path == own_path(native)
    assert not partial.exists()
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert not any(rows[0].name in step or "peak" in step for step, _ in told)

    table = read_table(path, native)
    assert {name: table.rows[name] for name in begun.rows} == begun.rows
    assert set(table.rows) == {row.name for row in rows}
    assert set(table.corrections) <= set(FAMILIES)
    assert "onnxruntime-matmul" in table.corrections
    assert set(table.rates) == set(KINDS)
    assert len(table.bandwidths) == len(native.caches) + 1
    assert cost_model(native).name == table.name


def test_what_another_machine_began_is_not_gone_on_with(few: None) -> None:
    native = measured_as(targets.get("native"))
    partial = own_path(native).with_suffix(".partial.json")
    partial.parent.mkdir(parents=True)
    begun = derived(native, TABLE_FILE.load(_shipped()))
    TABLE_FILE.save(begun, partial)
    assert calibration._begun(partial, native) is None
    TABLE_FILE.save(begun.model_copy(update={"machine": calibration.processor()}), partial)
    assert calibration._begun(partial, native) is not None
    partial.write_text("{")
    assert calibration._begun(partial, native) is None


def _shipped() -> Path:
    from sparsecc.cost.table import shipped_path

    path = shipped_path(TARGETS["x86-64-v3"])
    assert path is not None
    return path


@pytest.mark.parametrize("name", ["wasm", "cuda-sm_90"])
def test_a_target_that_is_not_this_machine_is_refused(name: str) -> None:
    with pytest.raises(TargetError, match="cannot be measured here"):
        calibrate(name)


def test_a_derived_table_says_so_and_scales() -> None:
    like = TABLE_FILE.load(_shipped())
    slow = dataclasses.replace(TARGETS["arm64-a55"], name="slow")
    fast = dataclasses.replace(slow, name="fast", ghz=slow.ghz * 2)
    one, two = derived(slow, like), derived(fast, like)
    assert one.derived
    assert one.machine == ""
    assert not one.corrections
    for kind in KINDS:
        assert one.rates[kind].ms(Sums(1, 1e5, 1e6)) == pytest.approx(
            2 * two.rates[kind].ms(Sums(1, 1e5, 1e6))
        )
