"""Artifacts and a stock runtime that the tests of the driver and of its parts share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import sparsecc
from tests import small

Stock = Callable[..., NDArray[np.float32]]


@pytest.fixture(scope="session")
def stock() -> Stock:
    """The first output of a model in ONNX Runtime as anybody has it."""

    def call(model: onnx.ModelProto | Path, **feeds: NDArray[np.float32]) -> NDArray[np.float32]:
        source = model if isinstance(model, Path) else model.SerializeToString()
        session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
        result: NDArray[np.float32] = session.run(None, feeds)[0]
        return result

    return call


@pytest.fixture(scope="session")
def pruned_mlp() -> sparsecc.Compiled:
    """The MLP at 80 % zeros in 4×1 blocks, by magnitude."""
    return sparsecc.compile(small.mlp(), sparsity="4x1:0.8")


@pytest.fixture(scope="session")
def saved_mlp(pruned_mlp: sparsecc.Compiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its artifact folder; not to be changed."""
    return pruned_mlp.save(tmp_path_factory.mktemp("artifact") / "mlp")
