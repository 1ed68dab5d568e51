"""Generated code in an artifact: there, right, and never run for weights it was not made for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import sparsecc
from sparsecc import targets
from sparsecc.backends.codegen.code_table import Pattern, code_table
from sparsecc.backends.codegen.outer_product import outer_product
from sparsecc.backends.onnxruntime.generate import patterns
from sparsecc.manifest import MODEL_NAME

V4 = targets.TARGETS["x86-64-v4"]
needs_v4 = pytest.mark.skipif(not targets.runs_here(V4), reason="this CPU has no AVX-512")


def _sparse(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * (rng.random(shape) < 0.15)).astype(np.float32)


CONV, LINEAR = _sparse(0, (100, 64, 3, 3)), _sparse(1, (100, 300))


def model() -> onnx.ModelProto:
    """A 3x3 convolution, then a matmul over its pixels: both unstructured."""
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Transpose", ["b"], ["c"], name="turn", perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["c", "linear"], ["y"], name="linear"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 64, 15, 13])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 15, 13, 300])],
        [numpy_helper.from_array(CONV, "conv"), numpy_helper.from_array(LINEAR, "linear")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "artifact"
    sparsecc.compile(model(), target=V4.name).save(folder)
    return folder


def codes() -> list[bytes]:
    """The code of both layers."""
    weights = (CONV.transpose(0, 2, 3, 1).reshape(100, -1), LINEAR.T)
    return [
        outer_product(np.flatnonzero(w).astype(np.int32), *w.shape).code.tobytes() for w in weights
    ]


def run(artifact: Path, proto: onnx.ModelProto | None = None) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(next(artifact.glob("*.so"))))
    source = str(artifact / MODEL_NAME) if proto is None else proto.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": image()})[0]


def image() -> NDArray[np.float32]:
    return np.random.default_rng(2).standard_normal((2, 64, 15, 13)).astype(np.float32)


def expected(conv: NDArray[np.float32]) -> NDArray[np.float32]:
    proto = model()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(conv, "conv"))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": image()})[0]


def test_the_library_holds_the_code_of_every_layer(artifact: Path) -> None:
    library = next(artifact.glob("*.so")).read_bytes()
    assert all(code in library for code in codes())


@needs_v4
def test_it_computes_what_the_dense_model_does(artifact: Path) -> None:
    np.testing.assert_allclose(run(artifact), expected(CONV), atol=2e-4)


def _altered(artifact: Path, *, move: bool) -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    """The artifact with other weights in the convolution, and these as a dense weight."""
    proto = onnx.load(artifact / MODEL_NAME)
    node = next(node for node in proto.graph.node if node.op_type.startswith("SparseConv"))
    stored = {each.name: each for each in proto.graph.initializer}
    values, index = (stored[name] for name in node.input[1:3])
    numbers, places = (numpy_helper.to_array(each).copy() for each in (values, index))
    numbers *= 2
    if move:
        # The last zero of the first row changes places with the weight before it.
        row = places[places < 576]
        gap = max(set(range(576)) - set(row.tolist()))
        places[np.searchsorted(places, gap) - 1] = gap
    values.CopyFrom(numpy_helper.from_array(numbers, values.name))
    index.CopyFrom(numpy_helper.from_array(places, index.name))
    dense = np.zeros(100 * 576, np.float32)
    dense[places] = numbers[:, 0]
    return proto, dense.reshape(100, 3, 3, 64).transpose(0, 3, 1, 2).copy()


@needs_v4
@pytest.mark.parametrize("move", [False, True], ids=["other values", "other positions"])
def test_altered_weights_compute_what_they_say(artifact: Path, move: bool) -> None:
    proto, dense = _altered(artifact, move=move)
    np.testing.assert_allclose(run(artifact, proto), expected(dense), atol=4e-4)


def test_the_same_model_gives_the_same_library(artifact: Path, tmp_path: Path) -> None:
    sparsecc.compile(model(), target=V4.name).save(tmp_path / "again")
    first, second = (next(f.glob("*.so")) for f in (artifact, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


def test_layers_that_code_is_not_for(artifact: Path) -> None:
    graph = ir.load(artifact / MODEL_NAME)
    found = list(patterns(graph, V4))
    assert sorted((each.rows, each.depth) for each in found) == [(100, 576), (300, 100)]
    assert not list(patterns(graph, targets.TARGETS["x86-64-v3"]))
    assert not list(patterns(graph, targets.TARGETS["arm64-linux"]))
    for node in graph.graph:
        if node.op_type.startswith("SparseConv"):
            node.attributes["group"] = ir.AttrInt64("group", 2)
        if node.op_type.startswith("SparseMatMul"):
            node.inputs[0].shape = ir.Shape([1, 2, 100])  # type: ignore[union-attr]
    assert not list(patterns(graph, V4))


def test_no_pattern_is_no_code() -> None:
    table = code_table([])
    assert (table.count, table.text) == (0, b"")
    assert code_table([Pattern(np.zeros(0, np.int32), 3, 4)]).count == 1
