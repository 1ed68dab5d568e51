"""A small network as an artifact for phones, compiled once."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import sparsecc
from benchmarks import build, spec


@dataclass(frozen=True)
class Network:
    """A model, its input, and what it computes."""

    model: onnx.ModelProto
    name: str
    x: NDArray[np.float32]
    expected: NDArray[np.float32]

    def check(self, got: NDArray[np.float32]) -> None:
        assert np.abs(got - self.expected.ravel()).max() <= 1e-5 * np.abs(self.expected).max()


@pytest.fixture(scope="session")
def network() -> Network:
    layers = spec.shrink(spec.load("mobilenet_v1"), 0.25, 64)
    model = build.build(layers, "4x1:0.8")
    ((name, x),) = build.inputs(layers).items()
    session = ort.InferenceSession(model.SerializeToString())
    return Network(model, name, x, session.run(None, {name: x})[0])


@pytest.fixture(scope="session")
def android(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact for Android, called ``model``."""
    folder = tmp_path_factory.mktemp("android") / "out"
    return sparsecc.compile(network.model, "arm64-android", name="model").save(folder)


@pytest.fixture(scope="session")
def ios(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact for iOS, called ``model``."""
    folder = tmp_path_factory.mktemp("ios") / "out"
    return sparsecc.compile(network.model, "arm64-ios", name="model").save(folder)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def java() -> str | None:
    """The Java compiler, if there is one beside its machine."""
    return shutil.which("javac") if shutil.which("java") else None
