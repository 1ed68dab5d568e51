from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import sparsecc
from benchmarks import build, spec
from sparsecc import ops
from sparsecc.ops import int8
from sparsecc.verify import verify
from tests.end_to_end import zoo

TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def stock(model: Path, feeds: zoo.Feeds) -> dict[str, NDArray[Any]]:
    """Outputs by name on ONNX Runtime as anybody has it, without our library."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def sparse_nodes(artifact: Path) -> list[str]:
    """Names of the layers that the library runs, those in regions too."""
    model = onnx.load(artifact / "model.onnx", load_external_data=False)
    regions = [each for each in model.functions if each.name.startswith(ops.REGION)]
    nodes = [node for holder in (model.graph, *regions) for node in holder.node]
    ours = [node for node in nodes if node.domain in (ops.DOMAIN, int8.DOMAIN)]
    return [node.name for node in ours if not node.op_type.startswith(ops.REGION)]


def assert_same(ours: dict[str, NDArray[Any]], theirs: dict[str, NDArray[Any]]) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=TOLERANCE * scale)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_model_equals_its_masked_dense_twin(name: str, models: Path, tmp_path: Path) -> None:
    if package := zoo.missing_package(name):
        pytest.skip(f"{package} is not installed")
    case = zoo.ZOO[name](models)
    options: dict[str, Any] = {}
    if not isinstance(case.model, Path):
        import torch

        options["example_inputs"] = tuple(map(torch.from_numpy, case.feeds.values()))
    compiled = sparsecc.compile(case.model, target="native", sparsity="4x1:0.8", **options)
    artifact = compiled.save(tmp_path / "artifact")
    assert bool(sparse_nodes(artifact)) == case.sparse
    assert verify(artifact)["ok"]
    assert_same(compiled.run(case.feeds), stock(artifact / "model.onnx", case.feeds))


@pytest.mark.parametrize("name", ["mobilenet_v1", "resnet50", "vit_tiny"])
def test_zeros_that_are_there_change_nothing(name: str, tmp_path: Path) -> None:
    layers = spec.shrink(spec.load(name), 0.5, 96)
    path = tmp_path / "model.onnx"
    onnx.save(build.build(layers, "4x1:0.8"), path)
    compiled = sparsecc.compile(path, target="native", sparsity="existing")
    feeds = build.inputs(layers)
    assert sparse_nodes(compiled.save(tmp_path / "artifact"))
    assert_same(compiled.run(feeds), stock(path, feeds))


def test_a_dense_model_stays_onnx_runtimes(tmp_path: Path) -> None:
    layers = spec.shrink(spec.load("mobilenet_v1"), 0.25, 64)
    path = tmp_path / "model.onnx"
    onnx.save(build.build(layers), path)
    compiled = sparsecc.compile(path, target="native", sparsity="existing")
    assert not sparse_nodes(compiled.save(tmp_path / "artifact"))
    assert_same(compiled.run(build.inputs(layers)), stock(path, build.inputs(layers)))


@pytest.mark.parametrize(
    ("name", "reason"), [("recurrent", "recurrent"), ("control_flow", "body of Loop")]
)
def test_what_is_left_dense_is_said(name: str, reason: str, models: Path) -> None:
    compiled = sparsecc.compile(zoo.ZOO[name](models).model, sparsity="4x1:0.8")
    assert reason in str(compiled.report)


def test_more_than_two_gigabytes_by_external_data(tmp_path: Path) -> None:
    case = zoo.big(tmp_path)
    try:
        compiled = sparsecc.compile(case.model, target="native", sparsity="existing")
        artifact = compiled.save(tmp_path / "artifact")
        assert len(sparse_nodes(artifact)) == zoo.BIG_LAYERS
        x, reference = case.feeds["x"], case.feeds["x"].astype(np.float64)
        for weight in big_rows(tmp_path / "big.data"):
            reference[:, : zoo.BIG_ROWS] += reference @ weight.T
        assert np.abs(reference - x).max() > 0.1
        assert_same(compiled.run(case.feeds), {"y": reference})
    finally:
        (tmp_path / "big.data").unlink()


def big_rows(data: Path) -> list[NDArray[np.float32]]:
    """The rows of each matrix that are not zero."""
    shape = (zoo.BIG_LAYERS, zoo.BIG_WIDTH, zoo.BIG_WIDTH)
    mapped = np.memmap(data, np.float32, "r", shape=shape)
    return [np.array(matrix[: zoo.BIG_ROWS]) for matrix in mapped]
