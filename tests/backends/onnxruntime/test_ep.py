"""The execution provider inside ONNX Runtime: unchanged files run right, sparse where it pays."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sparsecc import targets
from sparsecc.backends.onnxruntime.ep import NAME
from sparsecc.capture import capture
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights.choose import choose
from sparsecc.passes.weights.depthwise import Depthwise
from sparsecc.passes.weights.layers import find_layers
from sparsecc.passes.weights.to_sparse import replace_layer
from tests import small
from tests.backends.onnxruntime.ep_models import (
    CHANNELS,
    SIDE,
    TOLERANCE,
    check,
    claimed_names,
    conv_model,
    fused,
    image,
    open_with_provider,
    pruned,
)

TARGET = dataclasses.replace(targets.get("x86-64"), isas=("x86-64-v3",))
"""One that no code is generated for: the provider has none."""

SESSION = f"""
import onnxruntime as ort
def register(library):
    ort.register_execution_provider_library("x", library)
    return [d for d in ort.get_ep_devices() if d.ep_name == "{NAME}"]
def run(path, devices):
    import numpy as np
    options = ort.SessionOptions()
    options.add_provider_for_devices(devices, {{}})
    session = ort.InferenceSession(path, options)
    return session.run(None, {{"x": np.ones((2, 256), np.float32)}})[0].sum()
"""


pytestmark = pytest.mark.usefixtures("provider")


# ---- whole models ----


def paying_alone(model: onnx.ModelProto) -> set[str]:
    """Layers that the compiler makes sparse without counting on a region, depthwise ones too."""
    graph, ctx = capture(model), Context()
    run(pipeline.EXACT_BEFORE, graph, ctx)
    choices = [choose(layer, TARGET) for layer in find_layers(graph).layers]
    sparse = [replace_layer(choice.layer, choice.block) for choice in choices if choice.block]
    depthwise = Depthwise()
    depthwise.call(graph, ctx)
    return {str(node.name) for node in sparse} | set(depthwise.replaced)


@pytest.mark.parametrize("pattern", ["4x1:0.9", "16x1:0.8", "unstructured:0.95"])
def test_an_unmodified_pruned_network_runs_sparse(pattern: str) -> None:
    model = small.mobilenet(pattern)
    session = check(model.SerializeToString(), {"image": small.image(0)})
    paying = paying_alone(model)
    assert claimed_names(session, "Conv", "Gemm") == paying
    assert len(paying) > 10


def test_a_dense_model_is_left_alone() -> None:
    session = check(small.mobilenet().SerializeToString(), {"image": small.image(0)})
    assert fused(session) == []


def test_linear_layers_fuse_their_activations() -> None:
    model = small.mlp("N")
    for each in model.graph.initializer:
        if each.name.endswith("weight"):
            array = numpy_helper.to_array(each)
            sparse = pruned(array.T.shape).T.copy()
            each.CopyFrom(numpy_helper.from_array(sparse, each.name))
    for rows in (1, 3, 32):
        session = check(model.SerializeToString(), {"x": small.tokens(0, rows)})
        assert fused(session) == [["Gemm", "Relu"], ["Gemm", "Relu"]]  # ten outputs are too few


def test_sparse_initializers_are_consumed() -> None:
    model = onnx.load_from_string(conv_model())
    (dense,) = [each for each in model.graph.initializer if each.name == "w"]
    weight = numpy_helper.to_array(dense)
    flat = np.flatnonzero(weight)
    values = numpy_helper.from_array(weight.reshape(-1)[flat], "w")
    indices = numpy_helper.from_array(flat.astype(np.int64), "w_indices")
    model.graph.initializer.remove(dense)
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, indices, list(weight.shape))
    )
    session = check(model.SerializeToString(), {"x": image()})
    assert fused(session) == [["Conv"]]


def test_weights_in_external_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.load_from_string(conv_model()),
        path,
        save_as_external_data=True,
        size_threshold=0,
        location="weights.bin",
    )
    assert fused(check(path, {"x": image()})) == [["Conv"]]


# ---- layers ----


@given(
    st.sampled_from([(1, 1), (3, 3), (5, 3), (2, 2)]),
    st.sampled_from([(1, 1), (2, 2), (2, 1)]),
    st.sampled_from([(1, 1), (2, 1)]),
    st.sampled_from([1, 2]),
    st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID"]),
    st.sampled_from(["4x1", "16x1", "unstructured"]),
    st.integers(1, 3),
)
def test_any_convolution(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    padding: str,
    pattern: str,
    batch: int,
) -> None:
    pads = {"pads": [1, 0, 2, 1]} if padding == "pads" else {"auto_pad": padding}
    if padding.startswith("SAME"):
        dilation = (1, 1)  # the runtime knows no other
    attributes = {"strides": stride, "dilations": dilation, "group": groups, **pads}
    weight = pruned((128, 64 // groups, *kernel), pattern, 0.95)
    shape = {"x": ["N", 64, SIDE, SIDE]}
    model = conv_model(inputs=shape, weights={"w": weight}, **attributes)
    session = check(model, {"x": image(batch, 64)})
    too_little_work = kernel == (1, 1) and groups > 1
    assert too_little_work or fused(session) == [["Conv"]]


@pytest.mark.parametrize(
    ("op", "attributes", "bias", "taken"),
    [
        ("Gemm", {}, (64,), True),
        ("Gemm", {"transB": 1}, (1, 64), True),
        ("Gemm", {"transB": 1}, (1,), True),
        ("Gemm", {}, None, True),
        ("Gemm", {"transB": 1}, (7, 64), False),
        ("Gemm", {"alpha": 0.5}, (64,), False),
        ("Gemm", {"beta": 2.0}, (64,), False),
        ("Gemm", {"transA": 1}, (64,), False),
        ("MatMul", {}, None, True),
    ],
)
def test_matrix_products(
    op: str, attributes: dict[str, Any], bias: tuple[int, ...] | None, taken: bool
) -> None:
    weight = pruned((64, 128))
    weights = {"w": weight if attributes.get("transB") else weight.T.copy()}
    if bias is not None:
        weights["b"] = np.random.default_rng(1).standard_normal(bias).astype(np.float32)
    shape = [128, 7] if attributes.get("transA") else [7, 128]
    node = helper.make_node(op, ["x", *weights], ["y"], "layer", **attributes)
    model = small.model([node], {"x": shape}, {"y": [7, 64]}, weights)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert fused(check(model.SerializeToString(), {"x": x})) == ([[op]] if taken else [])


def test_tokens_of_any_rank_with_a_bias_behind() -> None:
    weights = {"w": pruned((64, 128)).T.copy(), "b": np.ones(64, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "layer"),
        helper.make_node("Add", ["b", "m"], ["a"], "add"),
        helper.make_node("Gelu", ["a"], ["y"], "act"),
    ]
    shape = ["N", 5, "T", 128]
    model = small.model(nodes, {"x": shape}, {"y": ["N", 5, "T", 64]}, weights, opset=20)
    x = np.random.default_rng(0).standard_normal((2, 5, 3, 128)).astype(np.float32)
    session = check(model.SerializeToString(), {"x": x})
    assert fused(session) == [["Add", "Gelu", "MatMul"]]


def test_layers_without_a_plain_constant_weight_are_left_alone() -> None:
    fed = onnx.load_from_string(conv_model())
    fed.graph.input.append(
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, CHANNELS, 1, 1])
    )
    assert fused(check(fed.SerializeToString(), {"x": image()})) == []
    line = helper.make_node("Conv", ["x", "w"], ["y"], "layer")
    shapes: tuple[small.Shapes, small.Shapes] = {"x": [1, 32, 50]}, {"y": [1, 64, 50]}
    model = small.model([line], *shapes, {"w": pruned((64, 32, 1))})
    x = np.ones((1, 32, 50), np.float32)
    assert fused(check(model.SerializeToString(), {"x": x})) == []


def test_depthwise_convolutions_go_with_their_neighbours() -> None:
    rng = np.random.default_rng(0)
    depthwise = rng.standard_normal((64, 1, 3, 3)).astype(np.float32)
    clip = helper.make_node("Relu", ["c"], ["r"])
    tail = [clip, helper.make_node("Conv", ["r", "d"], ["y"], "depthwise", group=64, pads=[1] * 4)]
    beside = conv_model(tail, weights={"d": depthwise})
    assert fused(check(beside, {"x": image()})) == [["Conv"], ["Conv", "Relu"]]
    alone = conv_model(tail, weights={"d": depthwise, "w": np.ones((64, CHANNELS, 1, 1), "f4")})
    assert fused(check(alone, {"x": image()})) == []


# ---- sessions ----


def test_sessions_are_independent_and_may_run_at_once() -> None:
    model = small.mobilenet("4x1:0.9").SerializeToString()
    first, second = open_with_provider(model), open_with_provider(model, threads=2)
    pictures = [small.image(seed, batch=1) for seed in range(6)]
    wanted = [first.run(None, {"image": picture})[0] for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda p: second.run(None, {"image": p})[0], pictures * 2))
    del first
    for a, b in zip(wanted * 2, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * np.abs(a).max())


def test_bad_input_is_a_status_that_names_the_node() -> None:
    model = onnx.load_from_string(conv_model(kernel_shape=[1, 1]))
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    for _ in range(4):
        model.graph.input[0].type.tensor_type.shape.dim.add()
    session = open_with_provider(model.SerializeToString())
    assert fused(session) == [["Conv"]]
    with pytest.raises(Exception, match=r"Conv 'layer': X has shape \[1, 7, 14, 14\].*fix:"):
        session.run(None, {"x": image(channels=7)})


def test_the_library_registers_twice_and_unloads(library: Path, tmp_path: Path) -> None:
    weights = {"w": pruned((256, 256)).T.copy()}
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "layer")
    model = small.model([node], {"x": ["N", 256]}, {"y": ["N", 256]}, weights)
    onnx.save(model, tmp_path / "m.onnx")
    program = SESSION + (
        "import sys\n"
        "for _ in range(2):\n"
        "    print(run(sys.argv[2], register(sys.argv[1])))\n"
        "    ort.unregister_execution_provider_library('x')\n"
        "    assert not [d for d in ort.get_ep_devices() if d.ep_name == 'SparseccEP']\n"
    )
    command = [sys.executable, "-c", program, str(library), str(tmp_path / "m.onnx")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert len(lines) == 2
    assert lines[0] == lines[1]
