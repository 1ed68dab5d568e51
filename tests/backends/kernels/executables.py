"""Executables of step kinds, as the tests of each kind of step run them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsecc import targets
from sparsecc.backends.kernels.execute import WASMTIME
from sparsecc.backends.kernels.table import ISAS

BuildSanitized = Callable[[str, str, Path], Path]


def can_run(isa: str) -> str | None:
    """Why an instruction set cannot run here, or nothing."""
    if isa.startswith("wasm"):
        return None
    if isa.startswith("arm64") and not targets.runs_here(targets.TARGETS["arm64-linux"]):
        return None if emulator() else "qemu-aarch64 is not installed"
    names = {target.isas[0]: target for target in targets.TARGETS.values() if len(target.isas) == 1}
    return None if targets.runs_here(names[isa]) else f"this CPU does not run {isa}"


def emulator() -> str | None:
    names = ("qemu-aarch64-static", "qemu-aarch64")
    return next((path for path in map(shutil.which, names) if path), None)


def command_of(isa: str, build: Callable[[str], Path]) -> list[str]:
    """How to run the executable of an instruction set; skips the test where nothing can."""
    reason = can_run(isa)
    if reason:
        pytest.skip(reason)
    native = targets.runs_here(targets.TARGETS["arm64-linux"])
    runners = {"arm64": [] if native else [str(emulator())], "wasm": [WASMTIME]}
    return [*runners.get(ISAS[isa].family, []), str(build(isa))]


def sanitized_command(build: BuildSanitized, factory: pytest.TempPathFactory) -> list[str]:
    """The executable of the best variant here under address and undefined-behaviour sanitizers.

    Built once for all modules and processes of a test run: it takes half a minute.
    """
    isa = sanitized_isa()
    if isa is None:
        pytest.skip("no x86-64 variant runs here")
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sanitized"
    folder.mkdir(exist_ok=True)
    for compiler in filter(shutil.which, ("gcc", "clang")):
        try:
            with (folder / f"{build.__name__}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                return [str(build(isa, compiler, folder))]
        except subprocess.CalledProcessError as error:
            if "sanitize" not in error.stderr and "asan" not in error.stderr:
                raise
    pytest.skip("no gcc or clang with an address sanitizer is installed")


def fixtures(build: Callable[[str], Path], build_sanitized: BuildSanitized) -> tuple[Any, Any]:
    """The fixtures of a module: the command of every instruction set, and the sanitized one."""

    @pytest.fixture(scope="module", params=list(ISAS))
    def command(request: pytest.FixtureRequest) -> list[str]:
        return command_of(request.param, build)

    @pytest.fixture(scope="module")
    def sanitized(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
        return sanitized_command(build_sanitized, tmp_path_factory)

    return command, sanitized


def sanitized_isa() -> str | None:
    """The instruction set that :func:`sanitized_command` builds for."""
    return next((name for name in reversed(ISAS) if "x86" in name and not can_run(name)), None)
