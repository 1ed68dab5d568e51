"""The same inputs give the same bytes, in any process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import small

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, sparsecc
model, calibration, out = sys.argv[1:]
options = {"calibration": calibration, "allocation": "erk"} if calibration else {}
sparsecc.compile(model, sparsity="4x1:0.8", **options).save(out)
"""


def compiled(model: Path, calibration: Path | str, out: Path, seed: str) -> dict[str, bytes]:
    command = [sys.executable, "-c", PROGRAM, str(model), str(calibration), str(out)]
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, env=environment)
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("calibrated", [False, True])
def test_two_processes_write_the_same_bytes(tmp_path: Path, calibrated: bool) -> None:
    """Of different hash seeds, from models at different places."""
    artifacts = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        model = folder / f"model{seed}.onnx"
        model.write_bytes((small.mlp("n") if calibrated else small.mobilenet()).SerializeToString())
        data = folder / "data.npz"
        np.savez(data, x=small.tokens(0, 64))
        source = data if calibrated else ""
        artifacts.append(compiled(model, source, folder / "out", seed))
    first, second = artifacts
    library = json.loads(first["manifest.json"])["library"]
    assert set(first) == {"model.onnx", "manifest.json", "report.html", "run.py", library}
    assert [name for name in first if first[name] != second.get(name)] == []


def test_nothing_says_where_or_when_it_was_made(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(small.mlp(), model)
    files = compiled(model, "", tmp_path / "out", "0")
    for name, content in files.items():
        for place in (str(tmp_path), str(ROOT), str(Path.home() / "")):
            assert place == "/" or place.encode() not in content, name
