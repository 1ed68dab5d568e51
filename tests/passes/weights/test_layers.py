from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparsecc.errors import ModelError
from sparsecc.passes.weights.layers import find_layers, matrix, set_matrix

RNG = np.random.default_rng(0)
node = helper.make_node


def w(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


def test_conv_matrix_runs_over_kernel_then_channels(build: Any, run: Any) -> None:
    weight = w(32, 8, 3, 2)
    nodes = [node("Conv", ["x", "w"], ["y"], name="conv", group=2)]
    model = build(nodes, {"w": weight}, {"x": ["n", 16, 9, 9]})
    (layer,) = find_layers(model).layers
    assert (layer.rows, layer.cols, layer.groups, layer.kernel) == (32, 48, 2, (3, 2))
    assert layer.macs == 32 * 48 * 7 * 8
    found = matrix(layer)
    assert found[5, (2 * 2 + 1) * 8 + 3] == weight[5, 3, 2, 1]
    set_matrix(layer, found * 2)
    x = w(1, 16, 9, 9)
    doubled = run(build(nodes, {"w": 2 * weight}, {"x": ["n", 16, 9, 9]}), x=x)
    np.testing.assert_array_equal(run(model, x=x), doubled)


PRODUCTS = {
    "MatMul": ([node("MatMul", ["x", "w"], ["y"], name="l")], (24, 40)),
    "Gemm": ([node("Gemm", ["x", "w"], ["y"], name="l")], (24, 40)),
    "Gemm transB": ([node("Gemm", ["x", "w"], ["y"], name="l", transB=1)], (40, 24)),
    "through Transpose": (
        [
            node("Transpose", ["w"], ["t"], perm=[1, 0]),
            node("Identity", ["t"], ["i"]),
            node("MatMul", ["x", "i"], ["y"], name="l"),
        ],
        (40, 24),
    ),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_product_matrix_is_outputs_by_inputs(case: str, build: Any, run: Any) -> None:
    nodes, shape = PRODUCTS[case]
    model = build(nodes, {"w": w(*shape)}, {"x": [5, 24]})
    (layer,) = find_layers(model).layers
    assert (layer.rows, layer.cols, layer.groups) == (40, 24, 1)
    x = w(5, 24)
    np.testing.assert_allclose(run(model, x=x), x @ matrix(layer).T, rtol=1e-4, atol=1e-4)
    new = w(40, 24)
    set_matrix(layer, new.astype(np.float64))
    np.testing.assert_allclose(run(model, x=x), x @ new.T, rtol=1e-4, atol=1e-4)
    assert np.array_equal(matrix(find_layers(model).layers[0]), new)


def test_weights_in_constant_nodes(build: Any, run: Any) -> None:
    constant = node("Constant", [], ["w"], value=numpy_helper.from_array(w(24, 40)))
    model = build([constant, node("MatMul", ["x", "w"], ["y"], name="l")], {}, {"x": [5, 24]})
    (layer,) = find_layers(model).layers
    set_matrix(layer, matrix(layer) * 0)
    assert not run(model, x=w(5, 24)).any()


def relu(source: str, target: str) -> Any:
    return node("Relu", [source], [target])


def test_first_and_last_layers_stay_dense_by_default(build: Any) -> None:
    nodes = [
        node("Conv", ["x", "a"], ["h0"], name="stem", pads=[1, 1, 1, 1]),
        relu("h0", "h1"),
        node("Conv", ["h1", "b"], ["h2"], name="body"),
        node("GlobalAveragePool", ["h2"], ["h3"]),
        node("Flatten", ["h3"], ["h4"]),
        node("Gemm", ["h4", "c"], ["h5"], name="neck"),
        relu("h5", "h6"),
        node("Gemm", ["h6", "d"], ["h7"], name="head"),
        node("Softmax", ["h7"], ["y"]),
    ]
    weights = {"a": w(32, 3, 3, 3), "b": w(256, 32, 3, 3), "c": w(256, 256), "d": w(256, 100)}
    layers = {
        layer.name: layer.keep_dense
        for layer in find_layers(build(nodes, weights, {"x": [1, 3, 12, 12]})).layers
    }
    assert layers["stem"].startswith("first layer")
    assert layers["body"] == ""
    assert layers["neck"] == ""
    assert layers["head"].startswith("last layer")


def test_a_residual_sum_before_the_output_is_no_classifier(build: Any) -> None:
    nodes = [node("MatMul", ["x", "a"], ["h"], name="l"), node("Add", ["h", "x"], ["y"])]
    (layer,) = find_layers(build(nodes, {"a": w(200, 200)}, {"x": [5, 200]})).layers
    assert layer.keep_dense == ""


def test_tiny_layers_stay_dense_by_default(build: Any) -> None:
    nodes = [
        node("MatMul", ["x", "a"], ["h"], name="few outputs"),
        node("MatMul", ["h", "b"], ["i"], name="few inputs"),
        node("MatMul", ["i", "c"], ["j"], name="few products"),
        node("ReduceMean", ["j"], ["y"]),
    ]
    weights = {"a": w(64, 8), "b": w(8, 64), "c": w(64, 64)}
    layers = find_layers(build(nodes, weights, {"x": [5, 64]})).layers
    assert [layer.keep_dense.split(":")[0] for layer in layers] == ["tiny"] * 3


@pytest.mark.parametrize(
    ("made", "weights", "reason"),
    [
        (node("Conv", ["x", "w"], ["y"], name="l", group=8), {"w": w(8, 1, 3, 3)}, "depthwise"),
        (node("ConvTranspose", ["x", "w"], ["y"], name="l"), {"w": w(8, 8, 3, 3)}, "transposed"),
        (
            node("Gather", ["w", "i"], ["y"], name="l"),
            {"w": w(90, 8), "i": np.array([1])},
            "embedding",
        ),
        (
            node("LSTM", ["x3", "w", "r"], ["y"], name="l", hidden_size=8),
            {"w": w(1, 32, 64), "r": w(1, 32, 8)},
            "recurrent: left dense",
        ),
        (
            node("GRU", ["x3", "w", "r"], ["y"], name="l", hidden_size=8),
            {"w": w(1, 24, 64), "r": w(1, 24, 8)},
            "recurrent",
        ),
        (node("Conv", ["x3", "w"], ["y"], name="l"), {"w": w(8, 8, 3)}, "1-D convolution"),
        (node("Conv", ["x", "x"], ["y"], name="l"), {}, "not constant"),
        (node("MatMul", ["w", "x3"], ["y"], name="l"), {"w": w(16, 8)}, "left factor"),
        (node("MatMul", ["x3", "w"], ["y"], name="l"), {"w": w(1, 64, 16)}, "rank 3"),
        (node("Gemm", ["x2", "w"], ["y"], name="l", transA=1), {"w": w(5, 16)}, "transA"),
        (
            node("DequantizeLinear", ["w", "s"], ["d"]),
            {"w": RNG.integers(0, 9, (64, 16)).astype(np.uint8), "s": np.float32(1)},
            "QDQ",
        ),
    ],
)
def test_what_cannot_be_pruned_says_why(
    made: Any, weights: dict[str, Any], reason: str, build: Any
) -> None:
    nodes = [made]
    if made.op_type == "DequantizeLinear":
        nodes.append(node("MatMul", ["x3", "d"], ["y"], name="l"))
    inputs = {"x": [1, 8, 8, 8], "x3": [5, 8, 64], "x2": [5, 16]}
    survey = find_layers(build(nodes, weights, inputs))
    assert survey.layers == ()
    (refusal,) = survey.refusals
    assert refusal.node == "l"
    assert reason in refusal.reason


def test_shared_weights_and_activations_without_weights(build: Any) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="a"),
        node("MatMul", ["h", "w"], ["i"], name="b"),
        node("MatMul", ["h", "i"], ["y"], name="attention"),
    ]
    survey = find_layers(build(nodes, {"w": w(32, 32)}, {"x": [32, 32]}))
    assert survey.layers == ()
    assert [(r.node, r.reason) for r in survey.refusals] == [
        ("a", "weight shared by several nodes"),
        ("b", "weight shared by several nodes"),
    ]


def test_products_of_constants_are_no_layers(build: Any) -> None:
    nodes = [
        node("MatMul", ["p", "w"], ["h"], name="positions"),
        node("Add", ["x", "h"], ["y"]),
    ]
    survey = find_layers(build(nodes, {"p": w(4, 32), "w": w(32, 32)}, {"x": [4, 32]}))
    assert survey.layers == ()
    assert "constant too" in survey.refusals[0].reason


def test_layers_inside_bodies_are_left_alone(build: Any) -> None:
    inner = helper.make_graph(
        [node("MatMul", ["x", "v"], ["z"], name="inner")],
        "body",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w(32, 32), "v")],
    )
    nodes = [node("If", ["flag"], ["y"], then_branch=inner, else_branch=inner)]
    survey = find_layers(build(nodes, {"flag": np.array(True)}, {"x": [4, 32]}))
    assert survey.layers == ()
    assert {(r.node, r.reason) for r in survey.refusals} == {("inner", "inside the body of If")}


def test_names_are_unique_even_where_the_nodes_have_none(build: Any) -> None:
    nodes = [
        node("MatMul", ["x", "a"], ["h"]),
        node("MatMul", ["h", "b"], ["i"], name="same"),
        node("MatMul", ["i", "c"], ["y"], name="same"),
    ]
    weights = {"a": w(32, 32), "b": w(32, 32), "c": w(32, 32)}
    names = [layer.name for layer in find_layers(build(nodes, weights, {"x": [4, 32]})).layers]
    assert names == ["MatMul_h", "same", "same:y"]


def test_nan_weights_name_the_layer(build: Any) -> None:
    bad = w(32, 32)
    bad[3, 3] = np.nan
    model = build([node("MatMul", ["x", "a"], ["y"], name="l")], {"a": bad}, {"x": [4, 32]})
    with pytest.raises(ModelError, match="NaN") as caught:
        matrix(find_layers(model).layers[0])
    assert caught.value.node == "l"
