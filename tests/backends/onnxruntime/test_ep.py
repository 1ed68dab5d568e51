"""The execution provider inside ONNX Runtime: unchanged files run right, sparse where it pays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparsecc import targets
from sparsecc.backends.onnxruntime.ep import NAME, execution_provider
from sparsecc.backends.onnxruntime.run import session_options
from sparsecc.capture import capture
from sparsecc.formats.patterns import Pattern, mask_from_scores
from sparsecc.ops.activations import BY_NAME
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights.choose import choose
from sparsecc.passes.weights.depthwise import Depthwise
from sparsecc.passes.weights.layers import find_layers
from sparsecc.passes.weights.to_sparse import replace_layer
from tests import small

Array = NDArray[np.float32]

TARGET = targets.get("x86-64")
REGISTERED = "sparsecc-tests"
TOLERANCE = 2e-5
SIDE = 14
CHANNELS = 32

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


@pytest.fixture(scope="module")
def library() -> Path:
    if not targets.runs_here(TARGET):
        pytest.skip("this machine does not run x86-64")
    return execution_provider(TARGET.name)


@pytest.fixture(scope="module", autouse=True)
def registered(library: Path) -> Iterator[None]:
    ort.register_execution_provider_library(REGISTERED, str(library))
    yield
    ort.unregister_execution_provider_library(REGISTERED)


def open_with_provider(model: bytes | Path, threads: int = 1) -> ort.InferenceSession:
    devices = [device for device in ort.get_ep_devices() if device.ep_name == NAME]
    options = session_options(threads)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_provider_for_devices(devices, {})
    return ort.InferenceSession(model if isinstance(model, bytes) else str(model), options)


def fused(session: ort.InferenceSession) -> list[list[str]]:
    """The ops of each fused node, sorted, in the order of their names."""
    groups = session.get_provider_graph_assignment_info()
    ours = [group for group in groups if group.ep_name == NAME]
    return sorted(sorted(node.op_type for node in group.get_nodes()) for group in ours)


def claimed_names(session: ort.InferenceSession, *op_types: str) -> set[str]:
    groups = session.get_provider_graph_assignment_info()
    nodes = [n for group in groups if group.ep_name == NAME for n in group.get_nodes()]
    return {node.name for node in nodes if node.op_type in op_types}


def check(model: bytes | Path, feeds: Mapping[str, Array]) -> ort.InferenceSession:
    """The session with the provider, whose outputs are those of the CPU."""
    source = model if isinstance(model, bytes) else str(model)
    cpu = ort.InferenceSession(source, session_options(1), providers=["CPUExecutionProvider"])
    session = open_with_provider(model)
    wanted, found = cpu.run(None, feeds), session.run(None, feeds)
    for a, b in zip(wanted, found, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(b, a, rtol=0, atol=TOLERANCE * max(1, np.abs(a).max(initial=0)))
    return session


def pruned(
    shape: Sequence[int], pattern: str = "4x1", sparsity: float = 0.9, seed: int = 0
) -> Array:
    """A weight of zeros in a pattern along the first axis."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 1 / np.prod(shape[1:]) ** 0.5, (shape[0], int(np.prod(shape[1:]))))
    mask = mask_from_scores(np.abs(weight), Pattern.parse(pattern), sparsity)
    return (weight * mask).reshape(shape).astype(np.float32)


def image(batch: int = 1, channels: int = CHANNELS, side: int = SIDE) -> Array:
    shape = (batch, channels, side, side)
    return np.random.default_rng(9).standard_normal(shape).astype(np.float32)


def conv_model(
    tail: Sequence[onnx.NodeProto] = (),
    inputs: small.Shapes | None = None,
    weights: Mapping[str, NDArray[Any]] | None = None,
    opset: int = 17,
    batch: int | str | None = 1,
    **attributes: Any,
) -> bytes:
    """``x`` → sparse Conv named ``layer`` → ``c`` → `tail` → ``y``."""
    conv = helper.make_node("Conv", ["x", "w", "b"], ["c"], "layer", **attributes)
    params = {"w": pruned((64, CHANNELS, 1, 1)), **(weights or {})}
    params["b"] = np.linspace(-1, 1, len(params["w"]), dtype=np.float32)
    ins = {"x": [batch, CHANNELS, SIDE, SIDE], **(inputs or {})}
    if not tail:
        conv.output[0] = "y"
    model = small.model([conv, *tail], ins, {"y": ()}, params, opset)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model.SerializeToString()


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
        assert fused(session) == [["Gemm"], ["Gemm", "Relu"], ["Gemm", "Relu"]]


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


# ---- what follows a layer ----


@pytest.mark.parametrize("activation", [name for name in BY_NAME if name != "none"])
def test_every_activation_in_standard_ops_is_fused(activation: str) -> None:
    body = BY_NAME[activation].body("c", "y")
    session = check(conv_model(body), {"x": 4 * image()})
    (group,) = fused(session)
    assert set(group) == {"Conv", *(node.op_type for node in body)} - {"Constant"}


@pytest.mark.parametrize(
    ("op", "attributes", "opset", "taken"),
    [
        ("HardSwish", {}, 17, True),
        ("Gelu", {"approximate": "tanh"}, 20, True),
        ("Clip", {"min": 0.0, "max": 6.0}, 10, True),
        ("Clip", {"min": 0.0, "max": 5.0}, 10, False),
        ("HardSigmoid", {}, 17, False),
        ("LeakyRelu", {}, 17, False),
        ("Tanh", {}, 17, False),
    ],
)
def test_only_known_activations_are_fused(
    op: str, attributes: dict[str, Any], opset: int, taken: bool
) -> None:
    model = conv_model([helper.make_node(op, ["c"], ["y"], **attributes)], opset=opset)
    assert fused(check(model, {"x": 4 * image()})) == (
        [sorted(["Conv", op])] if taken else [["Conv"]]
    )


def test_a_value_that_is_read_elsewhere_is_not_fused_away() -> None:
    tail = [
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["r", "c"], ["y"]),
    ]
    assert fused(check(conv_model(tail), {"x": image()})) == [["Conv"]]
    seen = onnx.load_from_string(conv_model([helper.make_node("Relu", ["c"], ["y"])]))
    seen.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))
    assert fused(check(seen.SerializeToString(), {"x": image()})) == [["Conv"]]


def residual_model(residual: Sequence[int | str | None], batch: int | str | None = 1) -> bytes:
    tail = [
        helper.make_node("Add", ["z", "c"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    return conv_model(tail, {"z": residual}, batch=batch)


def test_residuals_of_equal_shape_are_fused() -> None:
    feeds = {"x": image(), "z": image(1, 64)}
    whole = [["Add", "Conv", "Relu"]]
    assert fused(check(residual_model([1, 64, SIDE, SIDE]), feeds)) == whole
    dynamic = residual_model(["N", 64, SIDE, SIDE], "N")
    for batch in (1, 3):
        assert fused(check(dynamic, {"x": image(batch), "z": image(batch, 64)})) == whole


def test_residuals_that_may_broadcast_are_not_fused() -> None:
    wide = {"x": image(1), "z": image(2, 64)}
    assert fused(check(residual_model(["M", 64, SIDE, SIDE], "N"), wide)) == [["Conv"]]
    assert fused(check(residual_model([None, 64, SIDE, SIDE], None), wide)) == [["Conv"]]
    thin = {"x": image(), "z": np.ones((1, 64, 1, 1), np.float32)}
    assert fused(check(residual_model([1, 64, 1, 1]), thin)) == [["Conv"]]


def test_of_two_layers_that_are_added_one_takes_the_sum() -> None:
    weights = {"w2": pruned((64, CHANNELS, 1, 1), seed=1)}
    tail = [
        helper.make_node("Conv", ["x", "w2"], ["d"], "other"),
        helper.make_node("Add", ["c", "d"], ["y"]),
    ]
    session = check(conv_model(tail, weights=weights), {"x": image()})
    assert fused(session) == [["Add", "Conv"], ["Conv"]]


def test_a_layer_may_be_its_own_residual_and_share_its_weight() -> None:
    square = pruned((CHANNELS, CHANNELS, 3, 3))
    tail = [
        helper.make_node("Add", ["c", "x"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["y"], "second"),
    ]
    model = conv_model(tail, weights={"w": square}, pads=[1] * 4)
    assert fused(check(model, {"x": image()})) == [["Add", "Conv"], ["Conv"]]


def test_layers_inside_a_branch() -> None:
    """The weight of the one branch is its own, that of the other the outer graph's."""
    weight = numpy_helper.from_array(pruned((64, CHANNELS, 1, 1)), "inner")

    def branch(name: str, own: bool) -> onnx.GraphProto:
        node = helper.make_node("Conv", ["x", "inner" if own else "w"], [name], name)
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [output], [weight] if own else [])

    choice = {"then_branch": branch("t", True), "else_branch": branch("e", False)}
    nodes = [
        helper.make_node("Cast", ["flag"], ["condition"], to=TensorProto.BOOL),
        helper.make_node("If", ["condition"], ["y"], **choice),
    ]
    ins = {"x": [1, CHANNELS, SIDE, SIDE], "flag": [1]}
    weights = {"w": pruned((64, CHANNELS, 1, 1), seed=1)}
    model = small.model(nodes, ins, {"y": [1, 64, SIDE, SIDE]}, weights).SerializeToString()
    for flag in (0, 1):
        check(model, {"x": image(), "flag": np.array([flag], np.float32)})


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
