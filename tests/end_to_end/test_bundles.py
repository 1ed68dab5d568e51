"""Whole models without ONNX Runtime: every kind of the zoo, dense and sparse, in any sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import sparsecc
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.engines import why_not_here
from sparsecc.errors import BackendError
from sparsecc.targets import TARGETS
from sparsecc.verify import verify
from tests.end_to_end import zoo

TOLERANCE = 1e-5
FOREIGN = ("minilm", "ocr_recognizer")
"""Models with nodes that the library has no step for."""
KERNELS = {"conv-dense", "conv-depthwise", "matmul-dense", "int8-conv", "int8-depthwise", "tvm"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def compiled(case: zoo.Case, sparsity: str, target: str = "native") -> sparsecc.Compiled:
    options: dict[str, Any] = {} if target == "wasm" else {"backend": "bundle"}
    if not isinstance(case.model, Path):
        import torch

        options["example_inputs"] = tuple(map(torch.from_numpy, case.feeds.values()))
    return sparsecc.compile(case.model, target, sparsity=sparsity, **options)


def assert_near(
    got: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]], tolerance: float
) -> None:
    assert got.keys() == wanted.keys()
    for name, expected in wanted.items():
        assert got[name].shape == expected.shape
        assert np.abs(got[name] - expected).max() <= tolerance * np.abs(expected).max()


SHARES = {
    **dict.fromkeys(("mobilenet_v2", "vit", "minilm"), ("dense", "4x1:0.5", "4x1:0.8")),
    **dict.fromkeys(("efficientnet_lite0", "resnet18", "resnet50"), ("4x1:0.8",)),
    **dict.fromkeys(("ocr_direction", "opset_11", "quantised"), ("dense", "4x1:0.8")),
    "ocr_recognizer": ("4x1:0.8",),
}


@pytest.mark.parametrize(
    ("name", "sparsity"), [(name, share) for name, shares in SHARES.items() for share in shares]
)
def test_a_model_computes_what_its_twin_does(name: str, sparsity: str, models: Path) -> None:
    if package := zoo.missing_package(name):
        pytest.skip(f"{package} is not installed")
    case = zoo.ZOO[name](models)
    made = compiled(case, sparsity)
    assert made.manifest.numerics["max_rel_error"] <= TOLERANCE
    assert verify(made.path)["ok"]
    assert ("apache-tvm" in made.manifest.tools) == (name in FOREIGN)
    kernels = {row["kernel"] for row in made.manifest.layers}
    assert "onnxruntime" not in kernels
    if sparsity == "dense":
        assert kernels <= KERNELS
        if isinstance(case.model, Path):
            assert_near(made.run(case.feeds), stock(case.model, case.feeds), TOLERANCE)


def stock(model: Path, feeds: zoo.Feeds) -> dict[str, NDArray[Any]]:
    session = session_of_model(capture(model))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


@pytest.mark.parametrize("name", ["ocr_direction", "ocr_recognizer"])
def test_a_picture_of_any_width(name: str, models: Path) -> None:
    if package := zoo.missing_package("ocr_recognizer"):
        pytest.skip(f"{package} is not installed")
    case = zoo.ZOO[name](models)
    made = compiled(case, "dense")
    rng = np.random.default_rng(0)
    for batch, width in ((1, 192), (2, 192), (1, 96)):
        feeds = {"x": rng.uniform(-1, 1, (batch, 3, 48, width)).astype(np.float32)}
        assert_near(made.run(feeds), stock(case.model, feeds), TOLERANCE)


@pytest.mark.parametrize("name", ["minilm", "mobilenet_v1"])
def test_the_same_in_webassembly(name: str, models: Path) -> None:
    pytest.importorskip("wasmtime")
    if package := zoo.missing_package(name):
        pytest.skip(f"{package} is not installed")
    made = compiled(zoo.ZOO[name](models), "4x1:0.8", "wasm")
    assert max(made.manifest.numerics.values()) <= TOLERANCE
    assert verify(made.path)["ok"]


@pytest.mark.parametrize("name", ["minilm", "mobilenet_v1", "resnet18", "quantised"])
def test_the_same_on_arm_under_emulation(name: str, models: Path) -> None:
    if why := why_not_here(TARGETS["arm64-linux"]):
        pytest.skip(why)
    if package := zoo.missing_package(name):
        pytest.skip(f"{package} is not installed")
    made = compiled(zoo.ZOO[name](models), "4x1:0.8", "arm64-linux")
    assert max(made.manifest.numerics.values()) <= TOLERANCE
    assert verify(made.path)["ok"]


@pytest.mark.parametrize(("name", "node"), [("recurrent", "lstm"), ("control_flow", "loop")])
def test_what_cannot_be_done_names_its_node(name: str, node: str, models: Path) -> None:
    with pytest.raises(BackendError) as caught:
        compiled(zoo.ZOO[name](models), "dense")
    assert caught.value.node == node
    assert caught.value.fix
