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
from sparsecc.backends.tvm.cuda import library as libraries
from sparsecc.backends.tvm.cuda import parts
from sparsecc.backends.tvm.cuda.compiler import cubin_of
from sparsecc.passes.weights.to_dense import twin_of
from sparsecc.targets import TARGETS
from tests import exact
from tests.backends.tvm import gpu_dense
from tests.backends.tvm.gpu_models import feed, residual
from tests.backends.tvm.test_gpu import CLOSE

DRIVER = Path(__file__).parent / "gpu_driver.c"
NAMES = ("libcudart.so.13", "libcuda.so.1")


def test_tvms_runtime_runs_the_artifact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sources = list[str]()

    def compiled(source: str, arch: str) -> bytes:
        sources.append(source)
        return cubin_of(source, arch)

    monkeypatch.setattr(libraries, "cubin_of", compiled)
    monkeypatch.setattr(parts, "_form", lambda *_: "columns")  # whose kernels need no emulator
    model = residual()
    made = libraries.build_cuda_library(model, TARGETS["cuda-sm_90"], "m", tmp_path)
    gpu_dense.build(sources[0], tmp_path)
    (tmp_path / DRIVER.name).write_bytes(DRIVER.read_bytes())
    for name in NAMES:
        flags = ["-shared", "-O1", "-fPIC", f"-Wl,-soname,{name}"]
        run_zig(["cc", *flags, DRIVER.name, "-o", name], tmp_path)
    np.savez(tmp_path / "in.npz", **feed(model))
    command = [sys.executable, "-m", "tests.backends.tvm.gpu_device", str(tmp_path), "sm_90"]
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (wanted,) = exact.outputs(twin_of(model), feed(model))
    with np.load(tmp_path / "out.npz") as out:
        for turn in range(2):
            assert np.abs(out[f"turn{turn}"] - wanted).max() <= CLOSE * np.abs(wanted).max()
        calls = list(out["calls1"])
    assert made.captured == 1
    first, *recorded, graph, last = calls
    assert first == "fused_reshape_cast_kernel"
    assert recorded == [step.kernel.symbol for step in made.parts.regions["fc"].recipe.steps]
    assert (graph, "relu" in last) == ("graph", True)
