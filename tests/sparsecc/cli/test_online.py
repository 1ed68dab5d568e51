"""``sparsecc compile --online`` from the command line, and samplings by the loops of the guide."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from sparsecc.artifact import open_artifact
from sparsecc.backends.codegen.toolchain import run_zig
from tests.passes.attention import moving
from tests.passes.attention.moving import BLOCKS, GRID, WIDTH

LOOPS = Path(__file__).parents[1]
MARKED = (3, 4, 5, 6, 7)
STEPS = len(MARKED)
ONLINE = ("--attention", GRID.spec, "--online", STEPS, "--sparsity", "dense")


@pytest.fixture(scope="module")
def dit(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("dit") / "dit.onnx"
    onnx.save(moving.exported(True), path)
    return path


def sampled(folder: Path, command: list[str]) -> None:
    """Check what a program that reads x.bin of a folder and writes y.bin makes of a sampling."""
    xs = [moving.marked(block, step)["x"] for step, block in enumerate(MARKED)]
    np.concatenate(xs).tofile(folder / "x.bin")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ys, index = np.fromfile(folder / "y.bin", np.float32), np.full(BLOCKS, -1, np.int32)
    for step, (x, y) in enumerate(zip(xs, ys.reshape(STEPS, *xs[0].shape), strict=True)):
        wanted, index = moving.attended(x, index, step)
        assert np.abs(y - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_it_says_what_is_searched_and_what_is_carried(dit, sparsecc, tmp_path) -> None:
    out = tmp_path / "out"
    done = sparsecc("compile", dit, *ONLINE, "-o", out)
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "1 attention whose blocks are searched at steps 1 and 3 of 5, 80% of them left" in said
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    assert [each.name for each in graph.input] == ["x", "step", "blocks.0"]
    assert [each.name for each in graph.output][1:] == ["blocks.0.next"]
    assert [each.name for each in open_artifact(out).state] == ["step", "blocks.0"]
    assert sparsecc("verify", out, "--json").json["ok"]


def test_the_loop_in_c(dit, sparsecc, tmp_path) -> None:
    out = tmp_path / "out"
    asked = ("--target", "x86-64", "--backend", "bundle")
    done = sparsecc("compile", dit, *ONLINE, *asked, "-o", out)
    assert done.code == 0, done.err
    sizes = {"TOKENS": GRID.tokens, "WIDTH": WIDTH, "BLOCKS": BLOCKS, "STEPS": STEPS}
    flags = [f"-D{name}={size}" for name, size in sizes.items()]
    source = str(LOOPS / "online_loop.c")
    run_zig(["cc", "-O1", "-I.", *flags, source, "libmodel.a", "-o", "loop"], out)
    sampled(out, ["./loop"])


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_loop_in_javascript(dit, sparsecc, tmp_path) -> None:
    out = tmp_path / "out"
    done = sparsecc("compile", dit, *ONLINE, "--target", "wasm", "-o", out)
    assert done.code == 0, done.err
    sampled(out, ["node", str(LOOPS / "online_loop.mjs"), str(out)])
