"""Artifacts for GPUs, compiled on a machine without one: what is in them, and what is said."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")
pytest.importorskip("triton")

import sparsecc
from sparsecc import targets
from sparsecc.backends.cuda.build import build
from sparsecc.backends.cuda.forms.registry import FORMS
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.backends.tvm.cuda import modules
from sparsecc.backends.tvm.load import load
from sparsecc.errors import TargetError
from sparsecc.passes.weights import choose
from sparsecc.verify import verify
from tests import small
from tests.backends.cuda.tools import needs_gcc

ARCHES = ("sm_80", "sm_90")
PRUNED = {"sparsity": "16x1:0.8", "executor": "serial"}

pytestmark = [
    needs_gcc,
    pytest.mark.skipif(
        any(targets.runs_here(targets.get(f"cuda-{arch}")) for arch in ARCHES),
        reason="is about machines without a GPU",
    ),
]


def held(library: Path) -> dict[str, bytes]:
    """Kernels of a library, and the cubin of each."""
    load()
    loaded = ctypes.CDLL(str(library))
    start = ctypes.addressof(ctypes.c_char.in_dll(loaded, "__tvm_ffi__library_bin"))
    length = ctypes.c_uint64.from_address(start).value
    return modules.symbols_of(ctypes.string_at(start, 8 + length))


def kernels_of(made: sparsecc.Compiled) -> dict[str, str]:
    """What runs each layer, as the manifest says."""
    return {str(row["name"]): str(row["kernel"]) for row in made.manifest.layers}


def test_what_is_written_is_read_again() -> None:
    held = [("relax", b"abc"), ("_lib", b""), ("cuda", b""), ("cuda", b"\0" * 5)]
    tree = modules.Imports([[1], [2, 3], [], []], held)
    assert modules.read(modules.written(tree)) == tree


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse kernels in layers so small that dense ones are quicker."""
    monkeypatch.setattr(choose, "WORTHWHILE", 1e3)


@pytest.mark.parametrize("arch", ARCHES)
def test_an_mlp_holds_our_kernels_and_the_same_bytes_each_time(arch: str, always: None) -> None:
    made = [sparsecc.compile(small.mlp(), target=f"cuda-{arch}", **PRUNED) for _ in range(2)]
    for name in made[0].manifest.files:
        assert (made[0].path / name).read_bytes() == (made[1].path / name).read_bytes()
    manifest = made[0].manifest
    assert set(manifest.files) == {"model.so", "report.html", "run.py"}
    assert manifest.not_run == f"there is no GPU here for cuda-{arch}: it was built, and not run"
    assert {"apache-tvm", "triton", "nvidia-cuda-nvcc"} <= set(manifest.tools)
    said = kernels_of(made[0])
    assert said["head"] == "tvm"
    assert {said["fc1"], said["fc2"]} <= {f"{form}-float16" for form in FORMS}
    kernels = held(made[0].path / "model.so")
    ours = {each.symbol: each for each in KERNELS.values()}
    assert set(kernels) & set(ours)
    for symbol, code in kernels.items():
        assert symbol.encode() in code
        if symbol in ours:
            assert code == build(ours[symbol], arch).code


def test_commands_say_that_it_was_not_run(tmp_path: Path, always: None) -> None:
    made = sparsecc.compile(small.mlp(), target="cuda-sm_90", **PRUNED)
    folder = made.save(tmp_path / "artifact")
    for call in (lambda: made(small.tokens(0)), lambda: verify(folder)):
        with pytest.raises(
            TargetError, match="no GPU here for cuda-sm_90: it was built, and not run"
        ):
            call()


def test_what_runs_it_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    made = sparsecc.compile(small.mlp(), target="cuda-sm_90", sparsity="dense")
    np.savez(tmp_path / "in.npz", x=small.tokens(0))
    command = [sys.executable, str(made.path / "run.py"), str(tmp_path / "in.npz")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "this model is for a GPU, and TVM finds none here"


def test_a_network_over_images_is_tvms() -> None:
    made = sparsecc.compile(small.mobilenet(), target="cuda-sm_80", sparsity="dense")
    assert set(kernels_of(made).values()) == {"tvm"}
    assert not made.manifest.regions
    kernels = held(made.path / "model.so")
    assert len(kernels) > 3
    assert all(code.startswith(b"\x7fELF") for code in kernels.values())


_MADE = """
import sys
from pathlib import Path
from sparsecc.backends.tvm.cuda.library import build_cuda_library
from sparsecc.targets import TARGETS
from tests.backends.tvm.gpu_models import CASES

build_cuda_library(CASES["causal"](), TARGETS["cuda-sm_80"], "m", Path(sys.argv[1]))
"""


def test_other_processes_make_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for seed in ("1", "2"):  # of hashes, and caches of their own
        folder = tmp_path / seed
        folder.mkdir()
        environment = {"PYTHONHASHSEED": seed, "XDG_CACHE_HOME": str(folder / "cache")}
        command = [sys.executable, "-c", _MADE, str(folder)]
        subprocess.run(command, env=os.environ | environment, check=True, capture_output=True)
        made.append((folder / "model.so").read_bytes())
    assert made[0] == made[1]
    assert str(tmp_path).encode() not in made[0]
