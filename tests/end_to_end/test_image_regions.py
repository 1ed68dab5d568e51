"""Whole networks over images: one region, equal to stock ONNX Runtime on the twin at any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import sparsecc
from benchmarks import build, spec
from sparsecc.report.rows import DENSE_KERNEL

TOLERANCE = 1e-4
SIZE = 128
NETWORKS = ["mobilenet_v1", "mobilenet_v2", "resnet18"]
NETWORKS += ["mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_b0"]


@pytest.mark.parametrize("pattern", ["4x1:0.8", "16x1:0.8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_one_region(name: str, pattern: str, tmp_path: Path) -> None:
    layers = spec.shrink(spec.load(name), 0.5, SIZE)
    proto = build.build(layers, pattern)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(proto, tmp_path / "twin.onnx")
    compiled = sparsecc.compile(tmp_path / "twin.onnx", target="native", sparsity="existing")
    artifact = compiled.save(tmp_path / "artifact")
    graph = onnx.load(artifact / "model.onnx", load_external_data=False).graph
    assert [node.op_type for node in graph.node] == ["Region0"]
    assert all(row.kernel != DENSE_KERNEL for row in compiled.report.rows)
    (feed,) = build.inputs(layers)
    twin = ort.InferenceSession(tmp_path / "twin.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 2, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, SIZE, SIZE)).astype(np.float32)
        (wanted,), got = twin.run(None, {feed: x}), compiled.run({feed: x})
        (found,) = got.values()
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * scale)
