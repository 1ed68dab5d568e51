"""Tables of GPUs from reports: hand-made ones, whose rates and shares are known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sparsecc.cost.gpu.bounds import Task, ms_of
from sparsecc.cost.gpu.calibration import achieved, calibrate
from sparsecc.cost.gpu.coefficients import LAUNCH_MS, Coefficients, Reached, assumed
from sparsecc.cost.gpu.layers import Scores, attention, dense
from sparsecc.cost.gpu.weights import tasks
from sparsecc.cost.model import cost_model
from sparsecc.cost.roofline import Work
from sparsecc.cost.table import TABLE_FILE, kernels_hash, own_path, read_table
from sparsecc.errors import CostTableError, TargetError
from sparsecc.targets import TARGETS, Target

GPU = TARGETS["cuda-sm_90"]
LAUNCH, NEAR, FAR = 0.0025, 5600.0, 3000.0
"""What the GPU of these tests has: ms, and GB/s."""
SHARES = {"library": (0.8, 0.95), "columns": (0.45, 0.5), "attention": (0.4, 0.8)}
"""Of matrix units and of memory that its kernels reach. Of columns matrix units bound none of these
layers, of attention memory bounds none: what is assumed stays."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def linear(rows: int, cols: int, tokens: int) -> Work:
    return Work(rows, cols, tokens, 1, cols * tokens, is_conv=False)


def measured_tasks() -> list[Task]:
    """Layers that memory bounds, and layers that arithmetic does, of each family."""
    found = []
    for tokens in (1, 2, 4, 4096, 8192, 16384):
        work = linear(8192, 8192, tokens)
        found.append(cost_model(GPU).quickest(dense(work, "sm_90")))
        found += tasks(work, (64, 1), 8192 // 64 * 8192 // 4, "sm_90")
    for tokens in (16384, 32768):
        scores = Scores(24, tokens, tokens, 128, 0.2 * tokens**2)
        found.append(attention(scores, "sm_90", tall=128))
    return found


def the_gpu() -> tuple[Target, Coefficients]:
    """The GPU whose figures a calibration has to find."""
    before = assumed("sm_90")
    reached = before.reached | {
        family: Reached(matrix=matrix, issue=0.7, memory=memory)
        for family, (matrix, memory) in SHARES.items()
    }
    target = dataclasses.replace(GPU, bandwidths=(GPU.bandwidths[0], NEAR, FAR))
    return target, Coefficients(launch_ms=LAUNCH, reached=reached)


def report(**changes: Any) -> dict[str, Any]:
    target, known = the_gpu()
    made = {
        "device": "NVIDIA H100 80GB HBM3",
        "arch": "sm_90",
        "kernels": kernels_hash(GPU),
        "versions": {"torch": "2.13"},
        "seconds": 300.0,
        "rates": [
            {"rate": "launch", "ms": LAUNCH},
            {"rate": "memory", "gbs": FAR, "copy": 2900.0, "triad": FAR},
            {"rate": "cache", "gbs": NEAR},
        ],
        "checks": [{"kernel": "columns", "error": 1e-4, "bound": 2e-3, "passed": True}],
        "timings": [
            {
                "case": f"case {at}",
                "sides": {"it": {"ms": ms_of(task, target, known), "ratio": 1.0}},
                "tasks": {"it": dataclasses.asdict(task), "not timed": dataclasses.asdict(task)},
            }
            for at, task in enumerate(measured_tasks())
        ],
        "others": [],
    }
    return made | changes


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "gpu.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_it_finds_the_figures_of_the_gpu(tmp_path: Path) -> None:
    path = calibrate(written(tmp_path, report()))
    assert path == own_path(GPU)
    table = read_table(path, GPU)
    assert (table.derived, table.machine) == (False, "NVIDIA H100 80GB HBM3")
    assert table.bandwidths == (GPU.bandwidths[0], NEAR, FAR)
    assert table.gpu is not None
    assert table.gpu.launch_ms == LAUNCH
    for family, (matrix, memory) in SHARES.items():
        found = table.gpu.reached[family]
        assert found.memory == pytest.approx(memory, rel=0.02), family
        assert found.matrix == pytest.approx(matrix, rel=0.02), family
    assert table.gpu.reached["library"].cases == 6
    assert table.gpu.reached["library"].spread == 0.05
    untouched = assumed("sm_90").reached["bitmap"]
    assert table.gpu.reached["bitmap"] == untouched
    assert untouched.cases == 0


def test_estimates_use_it_and_say_so(tmp_path: Path) -> None:
    work = linear(8192, 8192, 1)
    before = cost_model(GPU)
    path = calibrate(written(tmp_path, report()))
    after = cost_model(GPU)
    assert after.name == TABLE_FILE.load(path).name != before.name
    wanted = LAUNCH + 2 * 8192 * (8192 + 2) / FAR * 1e-6 / 0.95
    assert after.library(work).ms == pytest.approx(wanted, rel=0.02)
    assert after.library(work).spread < before.library(work).spread


def test_one_wild_time_moves_nothing(tmp_path: Path) -> None:
    made = report()
    made["timings"][0]["sides"]["it"]["ms"] *= 50
    table = TABLE_FILE.load(calibrate(written(tmp_path, made)))
    assert table.gpu is not None
    assert table.gpu.reached["library"].memory == pytest.approx(0.95, rel=0.02)


def test_without_rates_those_of_the_data_sheet_stay(tmp_path: Path) -> None:
    made = report(rates=[{"rate": "cache", "gbs": None}], timings=[])
    table = TABLE_FILE.load(calibrate(written(tmp_path, made)))
    assert table.bandwidths == GPU.bandwidths
    assert table.gpu is not None
    assert table.gpu.launch_ms == LAUNCH_MS


def test_a_target_file_of_the_same_architecture_may_be_meant(tmp_path: Path) -> None:
    own = tmp_path / "mine.json"
    mine = dataclasses.replace(GPU, name="my-h200-sm_90", bandwidths=(31000.0, 7000.0, 4800.0))
    own.write_text(mine.to_json())
    path = calibrate(written(tmp_path, report()), str(own))
    assert path.name == "my-h200-sm_90.json"
    assert cost_model(mine).table is not None


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no JSON": ("{", CostTableError, "Invalid JSON"),
    "a list": ([], CostTableError, "object"),
    "no rates": ({"rates": 1}, CostTableError, "rates"),
    "a negative time": ({"rates": [{"rate": "launch", "ms": -1.0}]}, CostTableError, "rates.0.ms"),
    "no number": ({"rates": [{"rate": "memory", "gbs": "fast"}]}, CostTableError, "rates.0.gbs"),
    "another rate": ({"rates": [{"rate": "luck", "ms": 1.0}]}, CostTableError, "rates.0.rate"),
    "other kernels": ({"kernels": "0" * 16}, CostTableError, "other kernels"),
    "wrong kernels": (
        {"checks": [{"kernel": "columns 16", "passed": False}]},
        CostTableError,
        "1 kernels were wrong there: columns 16",
    ),
    "another GPU": ({"arch": "sm_75"}, TargetError, "sm_75"),
}


@pytest.mark.parametrize("which", BAD)
def test_a_bad_report_is_one_error_and_no_table(tmp_path: Path, which: str) -> None:
    content, error, said = BAD[which]
    file = written(tmp_path, report() | content if isinstance(content, dict) else content)
    with pytest.raises(error, match=said):
        calibrate(file)
    assert not own_path(GPU).exists()


def test_a_task_that_cannot_be_is_refused(tmp_path: Path) -> None:
    made = report()
    made["timings"][0]["tasks"]["it"]["launches"][0]["how"]["warps"] = 0
    with pytest.raises(CostTableError, match="warps"):
        calibrate(written(tmp_path, made))
    made["timings"][0]["tasks"]["it"]["launches"][0]["how"]["warps"] = 32
    made["timings"][0]["tasks"]["it"]["launches"][0]["how"]["shared"] = 1 << 20
    with pytest.raises(TargetError, match="does not fit"):
        calibrate(written(tmp_path, made))
    assert not own_path(GPU).exists()


def test_another_target_is_refused(tmp_path: Path) -> None:
    for other in ("cuda-sm_80", "x86-64-v4"):
        with pytest.raises(TargetError, match="sm_90") as caught:
            calibrate(written(tmp_path, report()), other)
        assert "calibrate cuda-sm_90" in str(caught.value)
    with pytest.raises(CostTableError, match="cannot read"):
        calibrate(tmp_path / "none.json")


def test_what_was_achieved_is_a_share_of_the_data_sheet() -> None:
    (launched, *_) = attention(Scores(1, 64, 64, 64, 4096.0), "sm_90", tall=64).launches
    demand = dataclasses.replace(
        launched.demand, flops=GPU.tensor_tflops * 1e9, read=GPU.dram_gbs * 1e6 / 2
    )
    task = Task("library", (dataclasses.replace(launched, demand=demand),))
    assert achieved(task, 2.0, GPU) == {"matrix_units": 0.5, "memory": 0.25}
