"""Executables of step kinds, as the tests of each kind of step run them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsecc.backends.kernels.table import ISAS
from tests.backends.kernels.test_kernels import can_run, emulator


def command_of(isa: str, build: Callable[[str], Path]) -> list[str]:
    """How to run the executable of an instruction set; skips the test where nothing can."""
    reason = can_run(isa)
    if reason:
        pytest.skip(reason)
    return [*([str(emulator())] if isa.startswith("arm64") else []), str(build(isa))]


def sanitized_command(build: Callable[[str, str, Path], Path], folder: Path) -> list[str]:
    """The executable of the best variant here under address and undefined-behaviour sanitizers."""
    isa = sanitized_isa()
    if isa is None or not shutil.which("gcc"):
        pytest.skip("no x86-64 variant runs here, or gcc is not installed")
    try:
        return [str(build(isa, "gcc", folder))]
    except subprocess.CalledProcessError as error:
        if "sanitize" not in error.stderr and "asan" not in error.stderr:
            raise
        pytest.skip("gcc has no address sanitizer here")


def fixtures(
    build: Callable[[str], Path], build_sanitized: Callable[[str, str, Path], Path]
) -> tuple[Any, Any]:
    """The fixtures of a module: the command of every instruction set, and the sanitized one."""

    @pytest.fixture(scope="module", params=list(ISAS))
    def command(request: pytest.FixtureRequest) -> list[str]:
        return command_of(request.param, build)

    @pytest.fixture(scope="module")
    def sanitized(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
        return sanitized_command(build_sanitized, tmp_path_factory.mktemp("steps"))

    return command, sanitized


def sanitized_isa() -> str | None:
    """The instruction set that :func:`sanitized_command` builds for."""
    return next((name for name in reversed(ISAS) if "x86" in name and not can_run(name)), None)
