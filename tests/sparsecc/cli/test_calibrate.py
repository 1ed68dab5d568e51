"""``sparsecc calibrate``: what it prints, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sparsecc.cost import calibration
from sparsecc.cost.table import TABLE_FILE, kernels_hash, shipped_path
from sparsecc.targets import TARGETS


@pytest.fixture
def calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the minutes of measuring: a table that was measured before."""
    source = shipped_path(TARGETS["x86-64-v3"])
    assert source is not None
    path = Path(shutil.copy(source, tmp_path / "t.json"))
    monkeypatch.setattr(calibration, "calibrate", lambda target, progress: path)
    return path


def test_it_says_what_was_measured(sparsecc, calibrated: Path) -> None:
    done = sparsecc("calibrate", "--json")
    table = TABLE_FILE.load(calibrated)
    assert done.code == 0
    assert json.loads(done.out) == {
        "path": str(calibrated),
        "name": table.name,
        "target": "x86-64-v3",
        "machine": table.machine,
        "peak_gflops": table.peak_gflops,
        "bandwidths_gbs": list(table.bandwidths),
        "shapes": 0,
    }
    assert str(calibrated) in sparsecc("calibrate").out


def test_another_machine_is_an_error_of_one_line(sparsecc) -> None:
    done = sparsecc("calibrate", "--target", "wasm", "--json")
    assert done.code == 6
    assert "cannot be measured here" in json.loads(done.out)["error"]["message"]


def test_what_a_gpu_measured_is_taken_over(
    sparsecc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gpu = TARGETS["cuda-sm_80"]
    file = tmp_path / "gpu.json"
    content = {
        "device": "NVIDIA A100-SXM4-80GB",
        "arch": "sm_80",
        "kernels": kernels_hash(gpu),
        "rates": [{"rate": "launch", "ms": 0.0031}, {"rate": "memory", "gbs": 1800.0}],
        "checks": [],
        "timings": [],
    }
    file.write_text(json.dumps(content))
    done = sparsecc("calibrate", "--measured", str(file))
    assert done.code == 0
    assert " of 10 families of kernels on NVIDIA A100-SXM4-80GB: memory 1800 GB/s" in done.out
    assert "a launch 3.1 µs" in done.out
    file.write_text(json.dumps(content | {"kernels": "0" * 16}))
    done = sparsecc("calibrate", "--measured", str(file), "--json")
    assert done.code == 10
    assert "of other kernels" in json.loads(done.out)["error"]["message"]
