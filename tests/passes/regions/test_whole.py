"""Whole models as one region: right at any share of zeros, for any sizes, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import build, spec
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.errors import BackendError
from sparsecc.measure import max_rel_error, run_once
from tests import exact, small
from tests.passes.regions import test_form
from tests.passes.regions.wholes import error, made, session

library = test_form.library
TOLERANCE = 1e-5
FACTOR = 3
"""Fifty layers of random weights multiply what the first ones round, in whatever order they sum."""


def network(name: str, pattern: str, width: float, side: int) -> tuple[onnx.ModelProto, dict]:
    layers = spec.shrink(spec.load(name), width, side)
    return build.build(layers, *([pattern] if pattern else [])), build.inputs(layers)


@pytest.mark.parametrize("pattern", ["", "4x1:0.5", "4x1:0.8", "unstructured:0.9"])
@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "resnet18", "vit_tiny"])
def test_a_network_is_one_program(library: Path, name: str, pattern: str) -> None:
    model, feeds = network(name, pattern, 0.25, 64)
    whole, rows, ctx = made(model)
    assert error(whole, library, model, feeds) < TOLERANCE
    kernels = {row.kernel for row in rows}
    assert any(row.is_sparse for row in rows) == bool(pattern)
    assert kernels & {"conv-dense", "matmul-dense"}
    assert not [each for each in ctx.refusals if each.pass_name == "form-regions"]


def test_fifty_layers(library: Path) -> None:
    pytest.importorskip("torch")
    model, feeds = network("resnet50", "4x1:0.8", 0.25, 64)
    graph = capture(model)
    wanted = exact.outputs(graph, feeds)
    ours = run_once(session(made(model)[0], library), feeds)
    theirs = run_once(session_of_model(graph), feeds)
    ours_off, theirs_off = max_rel_error(ours, wanted), max_rel_error(theirs, wanted)
    assert ours_off <= max(TOLERANCE, FACTOR * theirs_off)


@pytest.mark.parametrize("rows", [1, 3, 70])
def test_a_batch_of_any_size(library: Path, rows: int) -> None:
    model = small.mlp("n")
    whole, _, _ = made(model)
    assert whole.inputs[0].dims == ("n", small.tokens(0).shape[1])
    assert error(whole, library, model, {"x": small.tokens(rows, rows)}) < TOLERANCE


def conv_model(weight: np.ndarray, side: int | str = 9, **attributes: object) -> onnx.ModelProto:
    """One convolution of an image whose sides may be open."""
    groups = attributes.get("group", 1)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "layer", **attributes)
    channels = weight.shape[1] * int(str(groups))
    shapes = {"x": ["n", channels, side, side]}, {"y": ["n", len(weight), None, None]}
    return small.model([node], *shapes, {"w": weight})


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((1, 3, 3, 3), {}),  # fewer outputs than any block but one has
        ((3, 16, 1, 1), {}),
        ((30, 7, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((24, 5, 3, 3), {"group": 4, "strides": [2, 2]}),
        ((6, 5, 1, 3), {"group": 2}),
        ((12, 1, 3, 3), {"group": 4}),  # three filters for each channel
        ((8, 1, 5, 5), {"group": 8, "pads": [2, 2, 2, 2]}),
        ((16, 4, 3, 3), {"dilations": [2, 2]}),
    ],
)
def test_any_convolution_without_zeros(library: Path, shape: tuple, attributes: dict) -> None:
    rng = np.random.default_rng(len(shape))
    model = conv_model(rng.standard_normal(shape).astype(np.float32), "side", **attributes)
    whole, (row,), _ = made(model)
    assert row.kernel in ("conv-dense", "conv-depthwise")
    assert (row.est_ms, row.why) == (
        row.dense_ms,
        "dense, in the library: there is no other runtime",
    )
    channels = shape[1] * attributes.get("group", 1)
    feeds = [
        {"x": rng.standard_normal((n, channels, side, side)).astype(np.float32)}
        for n, side in ((1, 9), (2, 6), (1, 40))
    ]
    assert error(whole, library, model, *feeds) < TOLERANCE


@pytest.mark.parametrize("tokens", [1, 4, 5, 66])
@pytest.mark.parametrize(("rows", "cols"), [(1, 5), (10, 40), (48, 64), (65, 17)])
def test_any_product_without_zeros(library: Path, tokens: int, rows: int, cols: int) -> None:
    rng = np.random.default_rng(rows)
    weight = rng.standard_normal((cols, rows)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "layer")
    model = small.model([node], {"x": [2, tokens, cols]}, {"y": [2, tokens, rows]}, {"w": weight})
    x = rng.standard_normal((2, tokens, cols)).astype(np.float32)
    assert error(made(model)[0], library, model, {"x": x}) < TOLERANCE


def refusal(model: onnx.ModelProto) -> BackendError:
    with pytest.raises(BackendError) as caught:
        made(model)
    assert caught.value.fix
    return caught.value


def node_model(op: str, kind: int = TensorProto.FLOAT, **attributes: object) -> onnx.ModelProto:
    """One node between an input and an output."""
    ends = [helper.make_tensor_value_info(name, kind, [2, 3]) for name in ("x", "y")]
    nodes = [helper.make_node(op, ["x"], ["y"], "the node", **attributes)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_types_that_no_bundle_has_are_refused() -> None:
    refused = refusal(node_model("Relu", TensorProto.DOUBLE))
    assert "float64" in str(refused)


def test_an_output_that_is_an_input_is_refused() -> None:
    model = small.mlp()
    model.graph.output.append(model.graph.input[0])
    refused = refusal(model)
    assert refused.node == "x"
    assert "unchanged" in refused.message
