"""A small model, the artifact compiled from it, and a way to run commands."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from sparsecc.cli import app

CHANNELS, SIDE = 64, 128


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be exactly one JSON object."""
        data = json.loads(self.out)
        assert isinstance(data, dict)
        return data


def _save_model(path: Path) -> None:
    """Three products, the middle one with 90 % zeros in blocks of four outputs."""
    rng = np.random.default_rng(0)
    weights = [
        rng.normal(0, 0.1, shape).astype(np.float32)
        for shape in ((CHANNELS, 512), (512, 512), (512, 8))
    ]
    weights[1] *= np.repeat(rng.random((512, 128)) < 0.1, 4, axis=1)
    nodes, value = [], "x"
    for i in range(len(weights)):
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"y{i}"], f"fc{i}"))
        value = f"y{i}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [SIDE, CHANNELS])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [SIDE, 8])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


@pytest.fixture(scope="session")
def sparsecc():
    """Runs a command in this process."""

    def invoke(*args: object) -> Result:
        done = CliRunner().invoke(app, [str(arg) for arg in args])
        return Result(done.exit_code, done.stdout, done.stderr)

    return invoke


@pytest.fixture(scope="session")
def process():
    """Runs a command in a process of its own, 80 columns wide."""

    def invoke(*args: object) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "sparsecc.cli", *map(str, args)],
            capture_output=True,
            text=True,
            env=os.environ | {"COLUMNS": "80"},
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return invoke


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A model with zeros in it."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    _save_model(path)
    return path


@pytest.fixture(scope="session")
def artifact(model, sparsecc) -> Path:
    """The artifact of the model; tests leave it as it is."""
    folder = model.with_name("artifact")
    done = sparsecc("compile", model, "-o", folder)
    assert done.code == 0, done.err
    return folder
