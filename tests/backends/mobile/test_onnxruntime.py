"""The custom-op library for Android inside ONNX Runtime for that processor, under emulation."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import sparsecc
from benchmarks import arm
from tests.backends.kernels.executables import emulator
from tests.backends.mobile.conftest import Network, files

LIBRARY = "libsparsecc-arm64-android.so"


def test_onnxruntime_runs_a_model_with_the_library(network: Network, tmp_path: Path) -> None:
    made = sparsecc.compile(network.model, "arm64-android", backend="onnxruntime")
    assert files(made.path) == {
        *("model.onnx", LIBRARY, "README.md", "run.py", "manifest.json", "report.html")
    }
    readme = (made.path / "README.md").read_text()
    assert f'registerCustomOpLibrary("{LIBRARY}")' in readme
    assert '"image" to OnnxTensor.createTensor(environment, values, longArrayOf(1, 3, 64, 64))' in (
        readme
    )
    qemu, libraries = emulator(), arm.SYSROOT / "lib"
    if qemu is None or not (libraries / "libstdc++.so.6").exists():
        pytest.skip("qemu-aarch64, libc6-arm64-cross or libstdc++6-arm64-cross is not installed")
    try:
        runtime = arm.runtime(arm.PEER_VERSION, tmp_path)
    except RuntimeError as error:
        pytest.skip(str(error))
    network.x.tofile(tmp_path / "x")
    options = ["-cpu", arm.CPU, "-L", str(arm.SYSROOT), "-E", f"LD_LIBRARY_PATH={libraries}"]
    given = [made.path / "model.onnx", made.path / LIBRARY, tmp_path / "x", tmp_path / "y"]
    program = [arm.session_program(tmp_path), runtime, *given, network.name, "output"]
    command = [qemu, *options, *map(str, program), *map(str, network.x.shape)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    network.check(np.fromfile(tmp_path / "y", np.float32))
