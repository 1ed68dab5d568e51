"""Small models for the tests of weight sparsity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Build = Callable[..., ir.Model]
Run = Callable[..., NDArray[np.float32]]


@pytest.fixture
def build() -> Build:
    """Make a model of nodes, weights (name → array) and the shapes of its float inputs."""

    def make(
        nodes: Sequence[onnx.NodeProto],
        weights: Mapping[str, NDArray[Any]],
        inputs: Mapping[str, Sequence[int | str]],
        outputs: Sequence[str] = ("y",),
    ) -> ir.Model:
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        opset = [helper.make_opsetid("", 18)]
        proto = helper.make_model(graph, opset_imports=opset, ir_version=9)
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto))

    return make


@pytest.fixture
def run() -> Run:
    """The first output of a model in ONNX Runtime."""

    def call(model: ir.Model, **feeds: NDArray[Any]) -> NDArray[np.float32]:
        session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
        result: NDArray[np.float32] = session.run(None, feeds)[0]
        return result

    return call
