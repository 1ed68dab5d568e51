"""Convolutions and pools with any attributes, at sizes that vary, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from sparsecc.torch import Interpreter  # noqa: E402
from tests.sparsecc.torch import node_cases  # noqa: E402

RANK = 2
SIDES = st.lists(st.integers(6, 13), min_size=RANK, max_size=RANK)


def _pair(low: int, high: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(low, high), min_size=RANK, max_size=RANK)


@st.composite
def _placements(draw: Any, kernel: list[int]) -> dict[str, Any]:
    """Strides, dilations and padding of a window; the padding is smaller than the window."""
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    dilations = draw(_pair(1, 2)) if auto in ("NOTSET", "VALID") else [1] * RANK
    found = {"strides": draw(_pair(1, 3)), "dilations": dilations, "auto_pad": auto}
    if auto == "NOTSET":
        sides = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
        found["pads"] = sides
    return found


def _agree(node: Any, weights: dict[str, Any], channels: int, sizes: list[list[int]]) -> None:
    """One interpreter, several sizes: what ONNX Runtime refuses is no case."""
    shape = ["n", channels, "h", "w"]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in zip(node.output, (TensorProto.FLOAT, TensorProto.INT64), strict=False)
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = node_cases.runtime(model)
    assume(session is not None)
    interpreter = Interpreter(ir.from_proto(model))
    checked = 0
    for number, size in enumerate(sizes):
        x = torch.randn(2, channels, *size, generator=torch.manual_seed(number))
        expected = node_cases.computed(session, {"x": x})
        if expected is None or any(not each.numel() for each in expected):
            continue
        with torch.no_grad():
            got = interpreter({"x": x})
        for ours, theirs in zip(got.values(), expected, strict=True):
            node_cases.compare(ours, theirs, 1e-4, 1e-5)
        checked += 1
    assume(checked)


@given(st.data())
def test_convolutions(data: st.DataObject) -> None:
    kernel, groups = data.draw(_pair(1, 3)), data.draw(st.sampled_from([1, 2, 4]))
    weight = np.random.default_rng(0).standard_normal((4, 4 // groups, *kernel)).astype(np.float32)
    weights = {"w": weight, "b": np.arange(4, dtype=np.float32)}
    node = helper.make_node(
        "Conv", ["x", *weights], ["y"], group=groups, **data.draw(_placements(kernel))
    )
    _agree(node, weights, 4, data.draw(st.lists(SIDES, min_size=2, max_size=3)))


@given(st.data())
def test_transposed_convolutions(data: st.DataObject) -> None:
    kernel, groups = data.draw(_pair(1, 3)), data.draw(st.sampled_from([1, 2]))
    settings = data.draw(_placements(kernel))
    assume(settings["auto_pad"] == "NOTSET")
    bounds = zip(settings["strides"], settings["dilations"], strict=True)
    extra = [data.draw(st.integers(0, max(s, d) - 1)) for s, d in bounds]
    weight = np.random.default_rng(0).standard_normal((4, 3, *kernel)).astype(np.float32)
    weights = {"w": weight, "b": np.arange(3 * groups, dtype=np.float32)}
    node = helper.make_node(
        "ConvTranspose", ["x", *weights], ["y"], group=groups, output_padding=extra, **settings
    )
    _agree(node, weights, 4, data.draw(st.lists(SIDES, min_size=2, max_size=3)))


@given(st.data())
def test_largest_of_windows(data: st.DataObject) -> None:
    kernel = data.draw(_pair(1, 3))
    settings = data.draw(_placements(kernel)) | {"ceil_mode": data.draw(st.integers(0, 1))}
    outputs = ["y", "i"] if data.draw(st.booleans()) else ["y"]
    node = helper.make_node("MaxPool", ["x"], outputs, kernel_shape=kernel, **settings)
    _agree(node, {}, 2, data.draw(st.lists(SIDES, min_size=2, max_size=3)))


@given(st.data())
def test_means_of_windows(data: st.DataObject) -> None:
    kernel = data.draw(_pair(1, 3))
    settings = data.draw(_placements(kernel))
    settings |= {name: data.draw(st.integers(0, 1)) for name in ("ceil_mode", "count_include_pad")}
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=kernel, **settings)
    _agree(node, {}, 2, data.draw(st.lists(SIDES, min_size=2, max_size=3)))
