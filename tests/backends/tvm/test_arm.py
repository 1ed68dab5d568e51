"""The TVM library for 64-bit ARM: TVM's runtime for that processor runs it, under emulation."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import sparsecc
from benchmarks import arm
from sparsecc.backends.codegen.cache import cache_dir
from sparsecc.backends.codegen.toolchain import run_zig
from sparsecc.backends.tvm.load import PINS
from tests import small
from tests.backends.kernels.executables import emulator
from tests.backends.tvm import models
from tests.backends.tvm.test_library import CLOSE, SIZES, relative

HERE = Path(__file__).parent
RUNTIME = ("tvm/lib/libtvm_runtime.so", "tvm_ffi/lib/libtvm_ffi.so")
TYPES = {np.dtype(np.float32): "f32", np.dtype(np.int64): "i64"}
Feed = Mapping[str, NDArray[Any]]


def compiled(model: onnx.ModelProto) -> sparsecc.Compiled:
    return sparsecc.compile(model, target="arm64-linux", backend="tvm", sparsity="existing")


@pytest.fixture(scope="module")
def pooled() -> sparsecc.Compiled:
    return compiled(models.pooled())


@dataclass(frozen=True)
class Machine:
    """A program that runs a library in TVM's virtual machine, and the folder it works in."""

    command: list[str]
    folder: Path

    def run(self, made: sparsecc.Compiled, feed: Feed) -> subprocess.CompletedProcess[str]:
        given = []
        for port in made.manifest.inputs:
            value = feed[port.name]
            value.tofile(self.folder / port.name)
            given += [port.name, TYPES[value.dtype], "x".join(map(str, value.shape))]
        command = [*self.command, str(made.path / "model.so"), "output", *given]
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=120
        )

    def agrees(self, made: sparsecc.Compiled, model: onnx.ModelProto, feed: Feed) -> None:
        done = self.run(made, feed)
        assert done.returncode == 0, done.stderr
        want = ort.InferenceSession(model.SerializeToString()).run(None, feed)[0]
        got = np.fromfile(self.folder / "output", np.float32)
        assert relative(got.reshape(want.shape), want) < CLOSE


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    qemu, system = emulator(), arm.SYSROOT / "lib"
    if qemu is None or not (system / "libstdc++.so.6").exists():
        pytest.skip("qemu-aarch64, libc6-arm64-cross or libstdc++6-arm64-cross is not installed")
    wanted = [f"{name}=={version}" for name, version in PINS.items()]
    home = cache_dir() / "-".join(["tvm-arm64", *PINS.values()])
    try:
        arm.unpacked(wanted, (*RUNTIME, "tvm_ffi/include"), home)
    except RuntimeError as error:
        pytest.skip(str(error))
    folder, libraries = tmp_path_factory.mktemp("machine"), [home / each for each in RUNTIME]
    flags = ["-O2", f"-I{home}/tvm_ffi/include", "-Wl,--no-as-needed,--allow-shlib-undefined"]
    parts = [str(HERE / "machine.c"), *map(str, libraries), "-o", "machine"]
    run_zig(["cc", "-target", "aarch64-linux-gnu.2.28", *flags, *parts], folder)
    paths = ":".join(map(str, [system, *(each.parent for each in libraries)]))
    options = ["-cpu", arm.CPU, "-L", str(arm.SYSROOT), "-E", f"LD_LIBRARY_PATH={paths}"]
    return Machine([qemu, *options, "./machine"], folder)


def test_it_says_that_it_did_not_run(pooled: sparsecc.Compiled) -> None:
    assert pooled.manifest.not_run
    library = (pooled.path / "model.so").read_bytes()
    assert library[:4] == b"\x7fELF"
    assert int.from_bytes(library[18:20], "little") == 183  # EM_AARCH64


@pytest.mark.parametrize(("batch", "tokens"), SIZES)
def test_any_size(machine: Machine, pooled: sparsecc.Compiled, batch: int, tokens: int) -> None:
    machine.agrees(pooled, models.pooled(), models.feed(batch, tokens))


@pytest.mark.parametrize("model", [small.mobilenet, models.grown])
def test_pictures(machine: Machine, model: Callable[[], onnx.ModelProto]) -> None:
    made = compiled(model())
    (port,) = made.manifest.inputs
    x = np.random.default_rng(0).standard_normal([int(size) for size in port.dims])
    machine.agrees(made, model(), {port.name: x.astype(np.float32)})


def test_inputs_that_do_not_fit_are_an_error(machine: Machine, pooled: sparsecc.Compiled) -> None:
    feed = models.feed(2, 7)
    done = machine.run(pooled, feed | {"mask": feed["mask"][:, :6]})
    assert done.returncode == 1
    assert "(6 vs. 7)" in done.stderr
