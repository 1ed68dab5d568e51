"""Factors in standard ops compute what the dense weight does, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparsecc.formats.structures import Structure
from sparsecc.passes.structured.base import Fit, Matrix
from sparsecc.passes.structured.forms import FORMS
from sparsecc.passes.structured.offers import materialised
from sparsecc.passes.structured.rewrite import marks, misfit, replace_layer
from sparsecc.passes.weights.layers import find_layers, matrix, set_matrix
from tests.passes.structured import weights

NAMES = list(weights.structured())


def _model(
    op: str,
    arrays: Sequence[NDArray[np.floating]],
    shape: Sequence[int | str],
    **attributes: object,
) -> ir.Model:
    kind = TensorProto.DOUBLE if arrays[0].dtype == np.float64 else TensorProto.FLOAT
    names = ["w", "b"][: len(arrays)]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], ["y"], name="layer", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(a, name) for a, name in zip(arrays, names, strict=True)],
    )
    opset = [helper.make_opsetid("", 17)]
    proto = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def _run(model: ir.Model, x: NDArray[np.floating]) -> NDArray[np.floating]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    result: NDArray[np.floating] = session.run(None, {"x": x})[0]
    return result


def _check(
    model: ir.Model, text: str, x: NDArray[np.floating], sparse: Matrix | None = None
) -> list[str]:
    """Rewrite the layer; its op types. The weight becomes that of the factors before."""
    structure = Structure.parse(text)
    layer = find_layers(model).layers[0]
    shape = (layer.rows, layer.cols)
    assert not misfit(layer, structure, with_sparse=sparse is not None)
    weight = np.asarray(matrix(layer), np.float64)
    fit = FORMS[structure.form].fit(weight, structure, None)
    set_matrix(layer, materialised(fit, sparse, shape))
    expected = _run(model, x)
    replace_layer(layer, fit, sparse)
    got = _run(model, x)
    assert got.shape == expected.shape
    loose = 1e-11 if x.dtype == np.float64 else 2e-5
    np.testing.assert_allclose(got, expected, atol=loose * np.abs(expected).max(), rtol=0)
    assert [node.name for node in model.graph][-1] == "layer"
    assert set(marks(model.graph)) == {node.name for node in model.graph}
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", NAMES)
def test_products_of_factors_equal_the_dense_product(name: str, dtype: type) -> None:
    weight = weights.structured()[name]
    model = _model("MatMul", [weight.T.astype(dtype)], ["batch", "tokens", weight.shape[1]])
    x = np.random.default_rng(0).normal(size=(2, 3, weight.shape[1])).astype(dtype)
    _check(model, name, x)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*NAMES, "monarch:4x8:3", "kronecker:4x8:2", "rank:5"]),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(0, 7),
    st.integers(0, 2**31),
)
def test_any_leading_axes_open_or_not(name: str, axes: list[int], opened: int, seed: int) -> None:
    exact = weights.structured(seed)
    rng = np.random.default_rng(seed)
    weight = exact.get(name, rng.normal(size=(64, 96)))
    shape = [f"d{at}" if opened >> at & 1 else side for at, side in enumerate(axes)]
    model = _model("MatMul", [weight.T.copy()], [*shape, weight.shape[1]])
    _check(model, name, rng.normal(size=(*axes, weight.shape[1])))


def test_monarch_is_reshape_matmul_transpose_matmul_reshape() -> None:
    weight = np.random.default_rng(1).normal(size=(64, 96)).astype(np.float32)
    model = _model("MatMul", [weight.T.copy()], [5, 96])
    x = np.random.default_rng(1).normal(size=(5, 96)).astype(np.float32)
    ops = _check(model, "monarch:4x8:3", x)
    assert [op for op in ops if op != "Transpose"] == [
        *("Reshape", "MatMul", "Reshape", "Reshape", "MatMul", "Reshape")
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_gemm_keeps_its_bias(name: str) -> None:
    weight = weights.structured()[name]
    rng = np.random.default_rng(2)
    arrays = [weight.astype(np.float32), rng.normal(size=len(weight)).astype(np.float32)]
    model = _model("Gemm", arrays, ["n", weight.shape[1]], transB=1)
    _check(model, name, rng.normal(size=(4, weight.shape[1])).astype(np.float32))


@pytest.mark.parametrize("with_sparse", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kernel", "window"),
    [
        (1, {}),
        (1, {"strides": [2, 2]}),
        (3, {"pads": [1, 1, 1, 1]}),
        (3, {"pads": [2, 0, 1, 1], "strides": [2, 1], "dilations": [1, 2]}),
        (5, {"auto_pad": "SAME_UPPER"}),
    ],
)
def test_a_convolution_becomes_two(
    kernel: int, window: dict[str, object], bias: bool, with_sparse: bool
) -> None:
    rng = np.random.default_rng(3)
    shapes = [(24, 16, kernel, kernel), *([(24,)] if bias else [])]
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    model = _model("Conv", arrays, ["n", 16, 9, 10], kernel_shape=[kernel] * 2, **window)
    sparse = rng.normal(size=(24, 16 * kernel**2)) * (rng.random((24, 1)) < 0.3)
    x = rng.normal(size=(2, 16, 9, 10)).astype(np.float32)
    ops = _check(model, "rank:6", x, sparse if with_sparse else None)
    assert ops == ["Conv", "Conv", "Conv", "Add"] if with_sparse else ["Conv", "Conv"]


def test_a_sparse_part_is_a_layer_of_its_own() -> None:
    rng = np.random.default_rng(4)
    model = _model("MatMul", [rng.normal(size=(96, 64)).astype(np.float32)], [5, 96])
    sparse = rng.normal(size=(64, 96)) * (rng.random((64, 96)) < 0.2)
    x = rng.normal(size=(5, 96)).astype(np.float32)
    assert _check(model, "rank:6", x, sparse) == ["MatMul", "MatMul", "MatMul", "Add"]
    part = next(iter(marks(model.graph).values())).sparse
    assert part in {layer.name for layer in find_layers(model).layers}


@pytest.mark.parametrize(
    ("op", "arrays", "attributes", "text", "why"),
    [
        ("Conv", [(8, 4, 3, 3)], {}, "monarch:2x2:1", "only low rank"),
        ("Conv", [(8, 4, 3, 3)], {"group": 2}, "rank:2", "groups"),
        ("Gemm", [(8, 8), (8,)], {"alpha": 2.0}, "rank:2", "alpha or beta"),
        ("MatMul", [(8, 8)], {}, "rank:9", "rank 9"),
    ],
)
def test_what_is_not_rewritten_says_why(
    op: str, arrays: list[tuple[int, ...]], attributes: dict[str, object], text: str, why: str
) -> None:
    made = [np.ones(shape, np.float32) for shape in arrays]
    shape = [1, 8, 5, 5] if op == "Conv" and "group" in attributes else [1, 4, 5, 5]
    model = _model(op, made, shape if op == "Conv" else [2, 8], **attributes)
    assert why in misfit(find_layers(model).layers[0], Structure.parse(text))


def test_fits_are_plain_data() -> None:
    weight = weights.structured()["rank:6"]
    fit = FORMS["rank"].fit(weight, Structure.parse("rank:6"), None)
    assert isinstance(fit, Fit)
    assert all(factor.dtype == np.float64 for factor in fit.factors)
