"""Generated code inside of bundles: the same model on this processor, on ARM and in WebAssembly."""

from __future__ import annotations

import gc

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import sparsecc
from sparsecc.errors import BackendError
from tests.backends.tvm import models
from tests.backends.tvm.test_library import CLOSE, SIZES, relative


@pytest.mark.parametrize("target", ["x86-64", "arm64-linux", "wasm"])
def test_layers_of_the_library_between_generated_code(target: str) -> None:
    made = sparsecc.compile(models.pooled(), target=target, backend="bundle", sparsity="existing")
    reference = ort.InferenceSession(models.pooled().SerializeToString())
    for batch, tokens in SIZES:
        feed = models.feed(batch, tokens)
        assert relative(made.session.run(None, feed)[0], reference.run(None, feed)[0]) < CLOSE


def only_leftovers() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "turn", perm=[0, 2, 3, 1]),
        helper.make_node("ArgMax", ["t"], ["y"], "best", axis=-1, keepdims=0),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5, 4, 6])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, ["n", 4, 6])
    graph = helper.make_graph(nodes, "leftovers", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("target", ["x86-64", "wasm"])
def test_a_model_that_is_nothing_else(target: str) -> None:
    made = sparsecc.compile(only_leftovers(), target=target, backend="bundle")
    x = np.random.default_rng(0).standard_normal((3, 5, 4, 6)).astype(np.float32)
    np.testing.assert_array_equal(made.session.run(None, {"x": x})[0], x.argmax(1))


@pytest.mark.parametrize(
    ("op", "dtype", "dims"),
    [("NonZero", TensorProto.INT64, [3, None]), ("Det", TensorProto.FLOAT, ["n"])],
)
def test_what_tvm_cannot_take_is_named_and_nothing_else_said(
    capfd: pytest.CaptureFixture[str], op: str, dtype: int, dims: list[int | str | None]
) -> None:
    """TVM warns of what it began and did not end once it is collected."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5, 5])
    y = helper.make_tensor_value_info("y", dtype, dims)
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], "which")], "one", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(BackendError, match="which"):
        sparsecc.compile(model, target="x86-64", backend="bundle")
    gc.collect()
    assert capfd.readouterr().err == ""
