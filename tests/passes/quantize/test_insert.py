"""Quantizing a float model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper

from sparsecc.capture import capture
from sparsecc.errors import PlanError
from sparsecc.ops import int8
from sparsecc.passes import edit, pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.quantize.insert import InsertQuantization, quantized_values
from sparsecc.passes.quantize.to_int8 import ToInt8
from sparsecc.quality.calibration import load_calibration
from sparsecc.quality.ranges import value_ranges
from tests import small

X = np.random.default_rng(0).standard_normal((6, 8, 9, 7)).astype(np.float32)


def _images(opset: int = 17) -> ir.Model:
    """Conv + Relu, a depthwise Conv + Clip, a residual Add, a mean, a classifier."""
    rng = np.random.default_rng(1)
    weights = {
        "w1": rng.standard_normal((8, 8, 1, 1)).astype(np.float32),
        "b1": rng.standard_normal(8).astype(np.float32),
        "w2": rng.standard_normal((8, 1, 3, 3)).astype(np.float32),
        "w3": rng.standard_normal((8, 5)).astype(np.float32),
        "low": np.array(-1.5, np.float32),
        "high": np.array(6.0, np.float32),
    }
    weights["w1"][:4, :4] = 0
    pads = {"pads": [1] * 4, "group": 8}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv"),
        helper.make_node("Relu", ["c1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "dw", **pads),
        helper.make_node("Clip", ["c2", "low", "high"], ["r2"], "clip"),
        helper.make_node("Add", ["r1", "r2"], ["sum"], "add"),
        helper.make_node("GlobalAveragePool", ["sum"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w3"], ["y"], "head"),
    ]
    proto = small.model(nodes, {"x": ["n", 8, 9, 7]}, {"y": ["n", 5]}, weights, opset)
    model = capture(proto)
    run(pipeline.EXACT_BEFORE, model, Context())
    return model


def _quantized(model: ir.Model) -> Context:
    ctx = Context(verify=True)
    names = quantized_values(model)
    ranges = value_ranges(model, names, load_calibration({"x": X}, model))
    run([InsertQuantization(ranges)], model, ctx)
    return ctx


def _run(model: ir.Model) -> np.ndarray:
    content = ir.to_proto(model).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    result: np.ndarray = onnxruntime.InferenceSession(content, options).run(None, {"x": X})[0]
    return result


def test_the_model_stays_close_and_keeps_its_names() -> None:
    model = _images()
    want = _run(model)
    ctx = _quantized(model)
    got = _run(model)
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()
    assert np.abs(got - want).max() > 0
    assert ctx.refusals == []


def test_every_layer_reads_and_writes_bytes() -> None:
    model = _images()
    _quantized(model)
    for node in edit.nodes_of(model, "Conv", "Gemm", "Add", "GlobalAveragePool"):
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        assert before is not None
        assert before.op_type == "DequantizeLinear"
    stored = edit.constant(model.graph.initializers["conv.weight_int8"])
    assert stored is not None
    assert stored.dtype == np.int8
    assert not stored[:4, :4].any()
    assert stored[4:].any()


def test_what_the_kernels_lack_is_left_and_said() -> None:
    weights = {"w": np.ones((8, 8, 1), np.float32)}
    node = helper.make_node("Conv", ["x", "w"], ["y"], "flat")
    model = capture(small.model([node], {"x": ["n", 8, 9]}, {"y": ["n", 8, 9]}, weights))
    ctx = Context(verify=True)
    assert not run([InsertQuantization({})], model, ctx)
    assert [(r.node, r.reason) for r in ctx.refusals] == [
        ("flat", "it is not a 2-D convolution with explicit padding")
    ]


def test_an_old_opset_is_refused_with_a_way_out() -> None:
    model = _images(opset=12)
    model.opset_imports[""] = 12
    with pytest.raises(PlanError, match="the model has 12") as refused:
        quantized_values(model)
    assert "opset 13" in (refused.value.fix or "")


def test_a_channel_without_weights_keeps_its_bias() -> None:
    """In units of its own tiny scale its bias would not fit 32 bits."""
    rng = np.random.default_rng(2)
    weights = {"w": rng.standard_normal((8, 8, 1, 1)).astype(np.float32)}
    weights["w"][3] = 1e-30
    weights["b"] = np.arange(8, dtype=np.float32) + 1
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")
    shapes = {"x": ["n", 8, 9, 7]}, {"y": ["n", 8, 9, 7]}
    model = capture(small.model([node], *shapes, weights))
    want = _run(model)
    _quantized(model)
    ctx = Context(verify=True)
    run([ToInt8()], model, ctx)
    assert [n.op_type for n in model.graph if n.domain == int8.DOMAIN] == ["Conv"]
    assert ctx.refusals == []
    got = _run(model)
    assert np.abs(got - want)[:, 3].max() < 0.1
