"""Executables of kernels: built for one instruction set, fed on standard input."""

from __future__ import annotations

import atexit
import functools
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.backends.codegen.toolchain import Build, Unit, build_cached, is_wasm, wasm_module
from sparsecc.backends.kernels.sources import HERE, read_sources
from sparsecc.backends.kernels.table import ISAS

if TYPE_CHECKING:
    from wasmtime import Engine, Module

WASMTIME = "wasmtime"
"""First word of a command that runs in this process, whose second word is a module."""
TIMEOUT_S = 120


def executable(name: str, isa: str, units: tuple[Unit, ...]) -> Path:
    """Build a static executable for an instruction set, or find it in the cache.

    It needs Linux and nothing else; one of WebAssembly needs a runtime with WASI.

    Raises:
        BackendError: zig failed.
    """
    triple, sources = ISAS[isa].triple, read_sources(HERE / "driver")
    if is_wasm(triple):
        return build_cached(wasm_module(f"{name}.wasm", sources, units, ["_start"]))
    flags = ("-static", "--strip-all", "--build-id=none")
    return build_cached(Build(name, triple, sources, units, link_flags=flags))


def execute(command: Sequence[str], given: bytes) -> bytes:
    """What an executable says of its input.

    Args:
        command: The executable, with what runs it before it: an emulator, or :data:`WASMTIME`.
        given: Its standard input.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    run = _in_process if command[0] == WASMTIME else _process
    code, said, wrong = run(command, given)
    if code:
        raise RuntimeError(f"code {code}: {wrong.decode(errors='replace').strip()}")
    return said


def _process(command: Sequence[str], given: bytes) -> tuple[int, bytes, bytes]:
    done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=TIMEOUT_S)
    return done.returncode, done.stdout, done.stderr


@functools.cache
def _module(path: str) -> tuple[Engine, Module]:
    import wasmtime

    config = wasmtime.Config()
    config.cache = True
    engine = wasmtime.Engine(config)
    return engine, wasmtime.Module.from_file(engine, path)


atexit.register(_module.cache_clear)  # while wasmtime can still let go of them


def _in_process(command: Sequence[str], given: bytes) -> tuple[int, bytes, bytes]:
    import wasmtime

    engine, module = _module(command[1])
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("in", "out", "err")]
        files[0].write_bytes(given)
        wasi = wasmtime.WasiConfig()
        wasi.stdin_file, wasi.stdout_file, wasi.stderr_file = map(str, files)
        store = wasmtime.Store(engine)
        store.set_wasi(wasi)
        linker = wasmtime.Linker(engine)
        linker.define_wasi()
        start = linker.instantiate(store, module).exports(store)["_start"]
        assert isinstance(start, wasmtime.Func)
        try:
            start(store)
            code = 0
        except wasmtime.ExitTrap as left:
            code = left.code
        return code, files[1].read_bytes(), files[2].read_bytes()


def node_command(module: Path) -> list[str]:
    """How to run an executable of WebAssembly in Node."""
    return ["node", "--no-warnings", str(HERE / "driver" / "wasi.mjs"), str(module)]
