"""The C API under address and undefined-behaviour sanitizers; see stress.c."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from sparsecc.backends.bundle import build
from sparsecc.backends.bundle.plan import header, plan_source
from sparsecc.backends.bundle.weights import write_weights
from sparsecc.backends.kernels.harness import sanitized
from sparsecc.backends.kernels.sources import read_sources, units
from tests.backends.bundle import wholes
from tests.backends.kernels.executables import sanitized_command

ROWS = 7
NAME = "tiny"


def build_stress(isa: str, compiler: str, folder: Path) -> Path:
    whole, _ = wholes.MLP
    weights = write_weights(whole.constants, whole.program.constants, folder / f"{NAME}.bin")
    own = {
        "stress.c": (Path(__file__).parent / "stress.c").read_text(),
        "tiny_plan.c": plan_source(whole, weights, NAME),
        f"{NAME}.h": header(NAME),
    }
    parts = units([isa], "bundle.c", "weights.c", "tiny_plan.c", "stress.c", dot=False)
    parts = tuple(unit for unit in parts if unit.source != "externs.c")
    sources = read_sources(build.HERE) | own
    return sanitized(parts, isa, compiler, folder, sources)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return sanitized_command(build_stress, tmp_path_factory)


def test_nothing_leaks_and_everything_is_told(command: list[str], tmp_path: Path) -> None:
    _, layers = wholes.MLP
    x = np.random.default_rng(3).standard_normal((ROWS, 33)).astype(np.float32)
    x.tofile(tmp_path / "x")
    wholes.run_mlp(layers, x).tofile(tmp_path / "y")
    weights = Path(command[-1]).parent / f"{NAME}.bin"
    files = [str(weights), str(tmp_path / "x"), str(tmp_path / "y")]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout == "as it should be\n"
