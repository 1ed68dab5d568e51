"""The C API and the program under address and undefined-behaviour sanitizers; see stress.c."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.backends.bundle.parts import HERE as BUNDLE
from sparsecc.backends.bundle.plan import header, plan_source
from sparsecc.backends.bundle.weights import write_weights
from sparsecc.backends.kernels.harness import sanitized
from sparsecc.backends.kernels.sources import read_sources, units
from tests.backends.bundle import wholes
from tests.backends.kernels.executables import sanitized_command

ROWS = 7
NAME = "tiny"


def build_stress(isa: str, compiler: str, folder: Path) -> Path:
    return build_with("stress.c", isa, compiler, folder)


def build_runner(isa: str, compiler: str, folder: Path) -> Path:
    return build_with("runner.c", isa, compiler, folder)


def build_with(driver: str, isa: str, compiler: str, folder: Path) -> Path:
    whole, _ = wholes.MLP
    weights = write_weights(whole.constants, whole.program.constants, folder / f"{NAME}.bin")
    own = {
        "stress.c": (Path(__file__).parent / "stress.c").read_text(),
        "tiny_plan.c": plan_source(whole, weights, NAME),
        f"{NAME}.h": header(NAME),
    }
    parts = units([isa], "bundle.c", "weights.c", "tiny_plan.c", driver, dot=False)
    parts = tuple(unit for unit in parts if unit.source != "externs.c")
    return sanitized(parts, isa, compiler, folder, read_sources(BUNDLE) | own)


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


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return sanitized_command(build_runner, tmp_path_factory)


HEADER = 80
PIECES = [
    *(b"'descr'", b"'shape': (", b"'<f4'", b"(", b")", b","),
    *(b"9" * 30, b"-7", b"\0", b"\x93NUMPY"),
]


@given(st.data())
@settings(max_examples=100)
def test_no_file_upsets_the_program(runner: list[str], data: st.DataObject) -> None:
    """Bytes of a header are replaced, left out and put in, files cut: it runs or says why not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, np.ones((ROWS, 33), np.float32))
        content = path.read_bytes()
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, HEADER))
            gone = data.draw(st.integers(0, 12))
            put = data.draw(st.one_of(st.binary(max_size=4), st.sampled_from(PIECES)))
            content = content[:at] + put + content[at + gone :]
        path.write_bytes(content[: data.draw(st.sampled_from([5, 11, 60, 200, 1 << 20]))])
        weights = Path(runner[-1]).parent / f"{NAME}.bin"
        done = subprocess.run(
            [*runner, str(weights), str(path)],
            capture_output=True,
            check=False,
            env={"ASAN_OPTIONS": "exitcode=99:detect_leaks=0", "UBSAN_OPTIONS": "exitcode=99"},
        )
    assert done.returncode in (0, 1), done.stderr.decode(errors="replace")
    assert done.stdout if done.returncode == 0 else done.stderr
