from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from sparsecc.capture import capture
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.batch_norm_folding import BatchNormFolding
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.canonicalize.input_scale_folding import InputScaleFolding
from sparsecc.passes.canonicalize.scale_folding import ScaleFolding
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.edit import constant

PASSES = [ShapeInference(), BatchNormFolding(), ScaleFolding()]


def norm_weights(rng: np.random.Generator, channels: int, dtype: str = "f4") -> dict:
    values = {name: rng.standard_normal(channels).astype(dtype) for name in ("s", "b", "m")}
    return {**values, "v": rng.uniform(0.1, 2, channels).astype(dtype)}


def literally(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """ONNX Runtime without its own fusions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(proto.SerializeToString(), options)


@given(
    op=st.sampled_from(["Conv", "ConvTranspose"]),
    groups=st.integers(1, 3),
    width=st.integers(1, 3),
    kernel=st.integers(1, 3),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_convolution(op, groups, width, kernel, bias, seed):
    rng = np.random.default_rng(seed)
    channels = 2 * groups
    out = width * groups
    shape = (out, 2) if op == "Conv" else (channels, width)
    weights = {
        "w": rng.standard_normal((*shape, kernel, kernel)).astype("f4"),
        **({"c": rng.standard_normal(out).astype("f4")} if bias else {}),
        **norm_weights(rng, out),
    }
    inputs = ["x", "w", *(["c"] if bias else [])]
    nodes = [
        helper.make_node(op, inputs, ["h"], group=groups, pads=[1] * 4),
        helper.make_node("BatchNormalization", ["h", "s", "b", "m", "v"], ["y"], epsilon=1e-3),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", channels, 5, 4])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = {"x": rng.standard_normal((2, channels, 5, 4)).astype("f4")}
    model, ctx = capture(proto), Context(verify=True)
    assert run(PASSES, model, ctx)
    assert [node.op_type for node in model.graph] == [op]
    assert not ctx.refusals
    (want,), (got,) = (literally(each).run(None, x) for each in (proto, ir.to_proto(model)))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(1, np.abs(want).max()))


GEMM = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6] x) => (float[N, 4] y) {
  h = Gemm<transB = 1>(x, w, c)
  y = BatchNormalization(h, s, b, m, v)
}"""
MATMUL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 6] x) => (float[N, 4] y) {
  h = MatMul(x, w)
  k = Add(c, h)
  y = BatchNormalization(k, s, b, m, v)
}"""


@pytest.mark.parametrize(
    ("text", "shape", "ops"),
    [
        (GEMM, (4, 6), ["Gemm"]),
        (MATMUL, (6, 4), ["MatMul", "Add"]),
    ],
)
def test_linear(build, check, text, shape, ops):
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal(shape).astype("f4"),
        "c": rng.standard_normal(4).astype("f4"),
        **norm_weights(rng, 4),
    }
    result = check(PASSES, build(text, weights), {"x": rng.standard_normal((3, 6)).astype("f4")})
    assert result.ops == ops


def test_shared_weight_is_copied_not_changed(build, check):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y, float[1, 2, 4, 4] z) {
      h = Conv(x, w)
      y = BatchNormalization(h, s, b, m, v)
      z = Conv(x, w)
    }"""
    rng = np.random.default_rng(1)
    weights = {"w": rng.standard_normal((2, 2, 1, 1)).astype("f4"), **norm_weights(rng, 2)}
    result = check(PASSES, build(text, weights), {"x": np.ones((1, 2, 4, 4), "f4")})
    assert result.ops == ["Conv", "Conv"]
    kept = constant(result.model.graph.node(1).inputs[1])
    np.testing.assert_array_equal(kept, weights["w"])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("h = Conv(x, w) y = BatchNormalization(h, s, b, m, v) z = Relu(h)", "other readers"),
        ("h = Conv(x, u) z = Relu(x) y = BatchNormalization(h, s, b, m, v)", "not constant"),
        ("h = Conv(x, w) z = Relu(x) y = BatchNormalization(h, s, b, m, q)", "not finite"),
    ],
)
def test_refusals(build, body, reason):
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 2, 4, 4] x, float[2, 2, 1, 1] u) => (float[] y, float[] z) {{ {body} }}"""
    rng = np.random.default_rng(1)
    weights = {"w": np.ones((2, 2, 1, 1), "f4"), **norm_weights(rng, 2)}
    weights["q"] = np.full(2, -1.0, "f4")
    model, ctx = capture(build(text, weights)), Context(verify=True)
    run([BatchNormFolding()], model, ctx)
    assert [refusal.pass_name for refusal in ctx.refusals] == ["batch-norm-folding"]
    assert reason in ctx.refusals[0].reason


@pytest.mark.parametrize(
    ("arithmetic", "left"),
    [
        ("k = Mul(h, one) y = Add(k, row)", []),
        ("k = Sub(h, row) y = Div(k, one)", []),
        ("k = Mul(row, h) y = Identity(k)", ["Identity"]),
        ("k = Add(h, map) y = Mul(k, one)", ["Add", "Mul"]),
        ("k = Sub(row, h) y = Mul(k, one)", ["Sub", "Mul"]),
        ("k = Add(h, five) y = Mul(k, one)", ["Add", "Mul"]),
    ],
)
def test_arithmetic_per_channel(build, check, arithmetic, left):
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 2, 4, 4] x) => (float[] y) {{ h = Conv(x, w, c) {arithmetic} }}"""
    rng = np.random.default_rng(2)
    weights = {
        "w": rng.standard_normal((3, 2, 3, 3)).astype("f4"),
        "c": rng.standard_normal(3).astype("f4"),
        "one": np.array(1.5, "f4"),
        "row": rng.standard_normal((3, 1, 1)).astype("f4"),
        "map": rng.standard_normal((2, 2)).astype("f4"),
        "five": np.ones((1, 1, 1, 1, 1), "f4"),
    }
    x = {"x": rng.standard_normal((1, 2, 4, 4)).astype("f4")}
    proto = build(text, weights)
    assert check(PASSES, proto, x).ops == ["Conv", *left]


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(("arithmetic", "pads", "ops"), [
    ("h = Mul(x, row) z = Add(one, h)", 0, ["Conv"]),
    ("z = Mul(row, x)", 1, ["Conv"]),
    ("h = Mul(x, row) z = Add(h, one)", 1, ["Add", "Conv"]),
    ("h = Add(x, row) z = Mul(h, one)", 1, ["Add", "Conv"]),
    ("h = Mul(x, none) z = Add(h, one)", 1, ["Mul", "Add", "Conv"]),
    ("h = Mul(x, map) z = Add(h, one)", 0, ["Mul", "Conv"]),
    ("h = Mul(x, x) z = Mul(h, one)", 0, ["Mul", "Conv"]),
])  # fmt: skip
def test_arithmetic_before_a_convolution(build, check, arithmetic, pads, ops, group):
    conv = f"Conv<group = {group}, pads = [{pads}, {pads}, {pads}, {pads}]>"
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 4, 5, 5] x) => (float[] y) {{ {arithmetic} y = {conv}(z, w) }}"""
    rng = np.random.default_rng(2)
    weights = {
        "w": rng.standard_normal((6, 4 // group, 3, 3)).astype("f4"),
        "one": np.array(1.5, "f4"),
        "none": np.array(0, "f4"),
        "row": rng.standard_normal((4, 1, 1)).astype("f4"),
        "map": rng.standard_normal((5, 5)).astype("f4"),
    }
    x = {"x": rng.standard_normal((1, 4, 5, 5)).astype("f4")}
    passes = [InputScaleFolding(), DeadCode()]
    assert check(passes, build(text, weights), x, rtol=1e-5).ops == ops


def test_half_precision_keeps_its_type(build):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float16[1, 2, 4, 4] x) => (float16[] y) {
      h = Conv(x, w) y = BatchNormalization(h, s, b, m, v)
    }"""
    rng = np.random.default_rng(3)
    weights = {"w": np.ones((2, 2, 1, 1), "f2"), **norm_weights(rng, 2, "f2")}
    model = capture(build(text, weights))
    assert run(PASSES, model, Context(verify=True))
    assert {value.dtype.numpy() for value in model.graph.node(0).inputs[1:]} == {np.dtype("f2")}
    assert model.graph.outputs[0].dtype.value == onnx.TensorProto.FLOAT16
