"""The script for GPUs, as far as it goes without one: its kernels are interpreted."""

from __future__ import annotations

import dataclasses

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
from benchmarks.gpu import experts, family, weights
from sparsecc.backends.cuda.interpret import interpret
from sparsecc.backends.cuda.table import KERNELS

ARCH = "sm_90"


@pytest.fixture
def interpreted(monkeypatch):
    def launch(kernel, grid, given):
        interpret(kernel, ARCH, grid, given)

    for module in (bench, experts, family, weights):
        monkeypatch.setattr(module, "DEVICE", "cpu")
    for module in (bench, experts, weights):
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
    assert max(bench._errors(made, "flash").values()) < 0.02


@pytest.mark.parametrize("share", bench.KEPT)
def test_as_many_blocks_in_every_row(share):
    kept = bench.blocks_of(2, 2048, 64, share)
    assert (kept.sum(-1) == max(1, round(32 * share))).all()
    assert kept[:, np.arange(32), np.arange(32)].all()


@pytest.mark.parametrize("side", weights.ZEROS)
def test_weights_pass_their_check(interpreted, monkeypatch, side):
    monkeypatch.setattr(weights, "ROWS", 100)
    monkeypatch.setattr(weights, "COLUMNS", 200)
    made = weights.check(weights.ZEROS[side], "bfloat16", 7, ARCH)
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
        assert not case.failed


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
