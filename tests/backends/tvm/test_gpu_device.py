"""The artifact itself in TVM's CUDA runtime, over a driver that is made up.

What TVM reads of the library, which kernel it finds in which code, and what it passes to a launch
are then those of a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")
pytest.importorskip("triton")

from sparsecc.backends.codegen.toolchain import run_zig
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.backends.tvm.cuda import library as libraries
from sparsecc.backends.tvm.cuda import parts
from sparsecc.backends.tvm.cuda.compiler import cubin_of
from sparsecc.passes.weights.to_dense import twin_of
from sparsecc.targets import TARGETS
from tests import exact
from tests.backends.cuda.tools import needs_gcc
from tests.backends.tvm import gpu_dense
from tests.backends.tvm.gpu_models import CASES, feed
from tests.backends.tvm.test_gpu import CLOSE

pytestmark = needs_gcc

DRIVER = Path(__file__).parent / "gpu_driver.c"
SYMBOLS = {each.symbol for each in KERNELS.values()}
NAMES = ("libcudart.so.13", "libcuda.so.1")


@pytest.mark.parametrize("name", ["residual", "blocks"])
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_tvms_runtime_runs_the_artifact(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, arch: str
) -> None:
    sources = list[str]()

    def compiled(source: str, arch: str) -> bytes:
        sources.append(source)
        return cubin_of(source, arch)

    monkeypatch.setattr(libraries, "cubin_of", compiled)
    monkeypatch.setattr(parts, "_form", lambda *_: "columns")  # whose kernels need no emulator
    model = CASES[name]()
    made = libraries.build_cuda_library(model, TARGETS[f"cuda-{arch}"], "m", tmp_path)
    gpu_dense.build(sources[0], tmp_path)
    np.savez(tmp_path / "in.npz", **feed(model))
    (tmp_path / DRIVER.name).write_bytes(DRIVER.read_bytes())
    for each in NAMES:
        flags = ["-shared", "-O1", "-fPIC", f"-Wl,-soname,{each}"]
        run_zig(["cc", *flags, DRIVER.name, "-o", each], tmp_path)
    command = [sys.executable, "-m", "tests.backends.tvm.gpu_device", str(tmp_path), arch]
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (wanted,) = exact.outputs(twin_of(model), feed(model))
    with np.load(tmp_path / "out.npz") as out:
        for turn in range(2):
            assert np.abs(out[f"turn{turn}"] - wanted).max() <= CLOSE * np.abs(wanted).max()
        first, *_, graph, last = out["calls1"]
        recorded = [each for each in out["calls1"] if each in SYMBOLS]
    (region,) = made.parts.regions.values()
    assert recorded == [step.kernel.symbol for step in region.recipe.steps]
    assert made.captured == 1
    assert graph == "graph"
    assert not {first, last} & SYMBOLS  # they convert to float16, and back
