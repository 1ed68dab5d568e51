"""The script for GPUs, as far as it goes without one: its kernels are interpreted."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
import typer
from torch.nn.attention.flex_attention import flex_attention
from typer.testing import CliRunner

from benchmarks.gpu import __main__ as script
from benchmarks.gpu import attention as bench
from benchmarks.gpu import attention_backward as backward
from benchmarks.gpu import attention_search as search
from benchmarks.gpu import codes, experts, family, page, rates, weights
from benchmarks.rows import keep
from sparsecc.backends.cuda.interpret import interpret
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.cost.gpu.calibration import calibrate
from sparsecc.cost.gpu.weights import is_known
from sparsecc.cost.table import TABLE_FILE, kernels_hash
from sparsecc.errors import TargetError

ARCH = "sm_90"
PERFORMANCE = Path(__file__).parents[2] / "docs" / "performance.md"


@pytest.fixture
def interpreted(monkeypatch):
    def launch(kernel, grid, given):
        interpret(kernel, ARCH, grid, given)

    for module in (bench, backward, search, experts, family, weights):
        monkeypatch.setattr(module, "DEVICE", "cpu")
    for module in (bench, backward, search, experts, weights):
        monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(bench, "_flex", lambda: flex_attention)
    monkeypatch.setattr(bench, "HEADS", 1)
    monkeypatch.setattr(bench, "TOKENS", 256)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    app = typer.Typer()
    app.command()(script.main)
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 2
    assert done.output == "no GPU here: nothing was measured\n"


@pytest.mark.parametrize(
    "name",
    ["attention-bf16-d128-m128", "attention-fp16-d64-m64", "attention-fp16-d64-m128-ordered"],
)
def test_a_row_passes_its_check(interpreted, name):
    made = bench.check(KERNELS[name], ARCH)
    assert 0 < made.error <= made.bound


@pytest.mark.parametrize(
    "name",
    ["attention-bf16-d64-m128-queries", "attention-fp16-d64-m128-ordered-keys"],
)
def test_a_row_of_the_backward_passes_its_check(interpreted, monkeypatch, name):
    made = backward.check(KERNELS[name], ARCH)
    assert 0 < made.error <= made.bound
    monkeypatch.setattr(backward, "launch", lambda *_: None)
    assert backward.check(KERNELS[name], ARCH).error > made.bound


def test_gradients_of_a_case_are_those_of_torch(interpreted):
    case = next(backward.cases(ARCH))
    assert set(case.sides) == {"flash", "ours"}
    assert set(case.failed) == {"cudnn", "flex"}  # that has no backward on a CPU
    assert case.errors["ours"] < 0.02


def test_a_search_passes_its_check_and_its_case_runs(interpreted, monkeypatch):
    made = search.check(KERNELS["attention-search-bf16-d64"], ARCH)
    assert 0 < made.error <= made.bound
    monkeypatch.setattr(search, "launch", lambda *_: None)
    assert search.check(KERNELS["attention-search-bf16-d64"], ARCH).error > made.bound
    case = next(search.cases(ARCH))
    assert set(case.failed) == {"cudnn"}
    assert set(case.sides) == {"flash", "masses", "search", "keep"}


def test_a_wrong_kernel_does_not(interpreted, monkeypatch):
    monkeypatch.setattr(bench, "launch", lambda *_: None)
    made = bench.check(KERNELS["attention-bf16-d128-m128"], ARCH)
    assert made.error > made.bound


def test_cases_name_what_does_not_run_and_compute_the_same(interpreted):
    case = next(bench.cases(ARCH))
    assert set(case.sides) == {"flash", "flex", "ours-m128", "ours-m64"}
    assert set(case.failed) == {"cudnn"}
    assert case.share == 1
    made = {"flash": case.sides["flash"](), "flex": case.sides["flex"]()}
    assert max(bench.errors(made, "flash").values()) < 0.02


def test_rates_are_worked_out_by_hand():
    times = {"launches": 0.16, "copy": 1.0, "triad": 1.2, **dict.fromkeys(map(near, rates.NEAR), 0)}
    times[near(rates.NEAR[0])], times[near(rates.NEAR[1])] = 0.1, 0.1 + 16 * 8 * 2**20 / 6e9
    launch, memory, cache = rates.told(times)
    assert launch == {"rate": "launch", "ms": 0.0025}
    assert memory["gbs"] == memory["triad"] == pytest.approx(3 * 2**30 / 1.2e6)
    assert cache["gbs"] == pytest.approx(6000)
    times[near(rates.NEAR[1])] = 0.1  # nothing can be told of that
    assert list(rates.told(times))[2]["gbs"] is None


def near(size):
    return f"near {size}"


def test_what_is_timed_for_rates_runs(interpreted, monkeypatch):
    monkeypatch.setattr(rates, "DEVICE", "cpu")
    monkeypatch.setattr(rates, "graphed", lambda run: run)
    monkeypatch.setattr(rates, "FAR", 1 << 12)
    sides = rates.sides()
    assert set(sides) == {"launches", "copy", "triad", *map(near, rates.NEAR)}
    for side in sides.values():
        side()


def test_a_report_calibrates_the_cost_model(interpreted, monkeypatch, tmp_path):
    """From cases as they are to a table; times are of this machine, so that shares are low."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "SHAPES", ((64, 128),))
    monkeypatch.setattr(weights, "LAYERS", 2)
    monkeypatch.setattr(weights, "TOKENS", (8,))
    monkeypatch.setattr(weights, "graphed", lambda run: run)
    monkeypatch.setattr(script, "in_turns", timed_here)
    cases = [next(bench.cases(ARCH)), *weights.cases(ARCH)]
    target = script.target_of(ARCH)
    said = {
        "device": "a test",
        "arch": ARCH,
        "kernels": kernels_hash(target),
        "rates": [],
        "checks": [],
        "timings": [script.timed(case, target) for case in cases],
    }
    keep(tmp_path / "gpu.json", said)
    table = TABLE_FILE.load(calibrate(tmp_path / "gpu.json"))
    counts = {family: each.cases for family, each in table.gpu.reached.items() if each.cases}
    of_forms = Counter(zeros.form for zeros in weights.ZEROS.values() if is_known(zeros.form))
    assert counts == {"library": 1, "attention-library": 1, "attention": 2, **of_forms}
    dense = table.gpu.reached["library"]
    assert min(*dense.shares) < 0.1


REPORT = {
    "device": "NVIDIA H100 80GB HBM3",
    "versions": {"torch": "2.13.0", "triton": "3.7.1"},
    "rates": [{"rate": "launch", "ms": 0.00213}, {"rate": "memory", "gbs": 3021.4}],
    "checks": [{"kernel": "one", "passed": True}, {"kernel": "two", "passed": False}],
    "timings": [
        {
            "case": "24 heads × 128",
            "baseline": "cudnn",
            "sides": {
                "cudnn": {"ms": 22.51, "ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0},
                "ours": {"ms": 5.004, "ratio": 4.5, "ratio_low": 4.4, "ratio_high": 4.6},
            },
            "failed": {"flex": "no memory"},
            "reached": {"ours": {"matrix_units": 0.53, "memory": 0.02}},
        }
    ],
    "stopped": {"others": "7.0 minutes are over"},
}


def test_the_page_is_made_of_a_report(tmp_path):
    file, copied = tmp_path / "gpu.json", tmp_path / "performance.md"
    file.write_text(json.dumps(REPORT))
    copied.write_text(PERFORMANCE.read_text())
    page.main(file, copied)
    made = copied.read_text()
    assert (
        "NVIDIA H100 80GB HBM3; torch 2.13.0, triton 3.7.1. 1 of 2 checks passed, not two." in made
    )
    assert "At best: a launch 2.13 µs, memory 3.02e+03 GB/s, cache not measured." in made
    row = "| 24 heads × 128 | cudnn | 22.5 | ours | 5 | 4.50 (4.40–4.60) | 53% | 2% |"
    assert row in made
    assert "| flex | not measured | not measured | not measured | not measured |" in made
    assert "Stopped: others: 7.0 minutes are over." in made
    begin, end = (f"<!-- gpu:{which} -->" for which in ("begin", "end"))
    rest = PERFORMANCE.read_text().split(begin)[0], PERFORMANCE.read_text().split(end)[1]
    assert (made.split(begin)[0], made.split(end)[1]) == rest
    page.main(file, copied)  # again: nothing changes
    assert copied.read_text() == made


def timed_here(sides, seconds):
    """Milliseconds of each side on this machine, once."""
    made = {}
    for name, side in sides.items():
        start = time.perf_counter()
        side()
        made[name] = [[1e3 * (time.perf_counter() - start)]]
    return made


def test_another_gpu_is_an_error_that_names_ours():
    with pytest.raises(TargetError, match="sm_100") as caught:
        script.target_of("sm_100")
    assert "cuda-sm_90" in str(caught.value)


@pytest.mark.parametrize("share", bench.KEPT)
def test_as_many_blocks_in_every_row(share):
    kept = bench.blocks_of(2, 2048, 64, share)
    assert (kept.sum(-1) == max(1, round(32 * share))).all()
    assert kept[:, np.arange(32), np.arange(32)].all()


@pytest.mark.parametrize("side", weights.ZEROS)
def test_weights_pass_their_check(interpreted, monkeypatch, side):
    monkeypatch.setattr(weights, "ROWS", 100)
    made = weights.check(weights.ZEROS[side], "bfloat16", 7, 200, ARCH)
    assert 0 < made.error <= made.bound


def test_weights_have_the_zeros_that_they_are_named_after():
    for zeros in weights.ZEROS.values():
        weight = zeros.weight(640, 320, 1)
        assert abs((weight == 0).mean() - zeros.share) < 0.05


def test_weights_are_timed_beside_cublas(interpreted, monkeypatch):
    monkeypatch.setattr(weights, "SHAPES", ((64, 128),))
    monkeypatch.setattr(weights, "LAYERS", 1)
    monkeypatch.setattr(weights, "graphed", lambda run: run)
    made = list(weights.cases(ARCH))
    assert len(made) == len(weights.TOKENS)
    for case in made:
        assert set(case.sides) == {"cublas", *weights.ZEROS}
        assert all("CUDA" in why for why in case.failed.values())  # peers that need a GPU
        assert set(case.tasks) == set(case.sides)


def test_other_launches_of_weights_compute_the_same(interpreted, monkeypatch):
    monkeypatch.setattr(weights, "SHAPES", ((70, 320),))
    monkeypatch.setattr(weights, "LAYERS", 1)
    monkeypatch.setattr(weights, "graphed", lambda run: run)
    tried = dict(weights.others(ARCH))
    ours = [name for name in tried if name.startswith(weights.GROUPS)]
    assert len(ours) == 4 + sum(map(len, codes.TRIED.values()))
    for tokens, change in ((1, "LANES 64"), (4, "LANES 128"), (5, "ROWS 128"), (512, "TOKENS 64")):
        torch.manual_seed(0)
        usual = tried[f"{weights.GROUPS}, {tokens} tokens"]()()
        name = next(name for name in ours if f" {tokens} tokens, " in name and change in name)
        torch.manual_seed(0)
        assert family.error_of(tried[name]()(), usual) < 2e-3


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("rows", experts.ROWS)
def test_experts_pass_their_check(interpreted, gated, rows):
    small = {"tokens": 30, "dtype": "bfloat16", "arch": ARCH, "gated": gated}
    made = experts.check(dataclasses.replace(experts.CHECKED, **small), rows)
    assert 0 < made.error <= made.bound


def test_experts_that_do_nothing_do_not(interpreted, monkeypatch):
    monkeypatch.setattr(experts, "launch", lambda *_: None)
    small = {"tokens": 30, "dtype": "float16", "arch": ARCH}
    made = experts.check(dataclasses.replace(experts.CHECKED, **small), 16)
    assert made.error > made.bound


def test_experts_are_timed_beside_what_computes_the_same(interpreted, monkeypatch):
    monkeypatch.setattr(
        experts, "SIZES", ((8, 2, 64, 128, "gelu", False), (6, 3, 64, 96, "silu", True))
    )
    monkeypatch.setattr(experts, "TOKENS", (3, 40))
    monkeypatch.setattr(experts, "graphed", lambda run: run)
    made = list(experts.cases(ARCH))
    assert len(made) == 4
    for case in made:
        assert set(case.sides) == {"peak", "ours", "loop", "all", "grouped_mm"}
        assert not case.failed
        assert case.share > 0
        assert max(case.errors.values()) < 2e-2
        assert {task.family for task in case.tasks.values()} == {"experts"}


def test_other_launches_of_experts_compute_the_same(interpreted, monkeypatch):
    monkeypatch.setattr(experts, "SIZES", ((4, 2, 96, 400, "silu", True),) * 3)
    monkeypatch.setattr(experts, "TOKENS", (3, 70))
    monkeypatch.setattr(experts, "graphed", lambda run: run)
    tried = dict(experts.others(ARCH))
    assert len(tried) > 20
    mixture = experts._mixture(2, ARCH)
    for name in ("3 tokens, 64 × 128, 8 warps, 3 stages", "70 tokens, 256 × 64, 4 warps, 3 stages"):
        run = tried[name]()
        tensors = run.args[1]
        mixture = dataclasses.replace(mixture, tokens=len(tensors["X"]))
        places = experts.places_of(mixture, tensors["Experts"])
        wanted = experts.by_expert(mixture, tensors, places)
        assert family.error_of(run(), wanted) < 2e-2
