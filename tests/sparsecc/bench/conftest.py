"""Artifacts without a library, and models to compare them with."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc.manifest import FILE_NAME, FORMAT, MODEL_NAME, Manifest, file_entry

Writer = Callable[..., Path]


def _write_model(path: Path, *, inputs=(("x", TensorProto.FLOAT, ["n", 64]),), repeats=1) -> Path:
    """`repeats` products of the first input with one fixed matrix."""
    weight = np.random.default_rng(0).normal(0, 0.1, (64, 64)).astype(np.float32)
    names = [inputs[0][0], *(f"t{i}" for i in range(repeats - 1)), "y"]
    nodes = [
        helper.make_node("MatMul", [before, "w"], [after])
        for before, after in itertools.pairwise(names)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


@pytest.fixture
def write_model() -> Writer:
    """Writes a model of some products to a path."""
    return _write_model


@pytest.fixture
def artifact_of(tmp_path: Path) -> Callable[[Callable[[Path], object]], Path]:
    """Makes an artifact folder around the model that a function writes to a path."""

    def make(write: Callable[[Path], object]) -> Path:
        folder = tmp_path / "out"
        folder.mkdir()
        write(folder / MODEL_NAME)
        manifest = Manifest(
            format=FORMAT,
            sparsecc="0",
            tools={},
            target="x86-64",
            library=None,
            opset=17,
            files={MODEL_NAME: file_entry(folder / MODEL_NAME)},
            plan={},
            layers=[],
            refusals=[],
            numerics={},
            quality={},
        )
        (folder / FILE_NAME).write_bytes(manifest.to_bytes())
        return folder

    return make


@pytest.fixture
def artifact(artifact_of: Callable[[Callable[[Path], object]], Path]) -> Path:
    """An artifact whose model is one product."""
    return artifact_of(_write_model)
