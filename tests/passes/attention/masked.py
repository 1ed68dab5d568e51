"""Models of one attention in text, and what the passes make of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sparsecc import ops, targets
from sparsecc.capture import capture
from sparsecc.passes import pipeline
from sparsecc.passes.attention.rules import Rule
from sparsecc.passes.base import Context, run

TARGET = targets.TARGETS["x86-64"]
Arrays = Mapping[str, NDArray[np.generic]]
HEADS, DIM = 4, 16
CAUSAL, WINDOW = Rule(right=0), Rule(5, 3)
Attributes = dict[str, float]


def model(
    inputs: str, body: str, weights: Arrays | None = None, opset: int = 18
) -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g ({inputs}) => (float[B, H, L, E] y) {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    arrays = {"half": np.array(0.5, np.float32), **(weights or {})}
    proto.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items() if name in body
    )
    if "part = " in body:  # exporters say what size it has
        said = helper.make_tensor_value_info("part", onnx.TensorProto.BOOL, [1, 1, "T", "T"])
        proto.graph.value_info.append(said)
    return proto


def tokens(batch: str = "B", length: str | int = "T", heads: int = HEADS) -> str:
    q = f"float[{batch}, {HEADS}, {length}, {DIM}]"
    k = f"float[{batch}, {heads}, {length}, {DIM}]"
    return f"{q} q, {k} k, {k} v"


def attention(mask: str, scores: str = "m = Add(s, mask)") -> str:
    return f"""
        kt = Transpose<perm = [0, 1, 3, 2]>(k)
        p0 = MatMul(q, kt)
        s = Mul(p0, half)
        {mask}
        {scores}
        p = Softmax<axis = -1>(m)
        y = MatMul(p, v)"""


FLAT = """
    qf = Reshape(q, flat)
    kf = Reshape(k, flat)
    vf = Reshape(v, flat)
    kt = Transpose<perm = [0, 2, 1]>(kf)
    s = MatMul(qf, kt)
    m = Add(s, given)
    p = Softmax<axis = -1>(m)
    c = MatMul(p, vf)
    y = Reshape(c, whole)"""
"""Attention with batch and heads in one dimension, as torch's products of batches have it."""


def rewritten(proto: onnx.ModelProto) -> tuple[ir.Model, Context]:
    graph, ctx = capture(proto), Context(target=TARGET, verify=True)
    run(pipeline.EXACT_BEFORE, graph, ctx)
    run(pipeline.EXACT_AFTER, graph, ctx)
    ops.attach_functions(graph)
    return graph, ctx


def feeds(proto: onnx.ModelProto, **sizes: int) -> Arrays:
    rng = np.random.default_rng(sum(sizes.values()))
    found: dict[str, NDArray[np.generic]] = {}
    for port in proto.graph.input:
        dims = port.type.tensor_type.shape.dim
        shape = [dim.dim_value or sizes[dim.dim_param] for dim in dims]
        flags = port.type.tensor_type.elem_type == onnx.TensorProto.BOOL
        made = rng.random(shape) < 0.7 if flags else rng.standard_normal(shape)
        found[port.name] = made if flags else made.astype(np.float32)
    return found


def outputs(content: bytes, given: Arrays) -> NDArray[np.float32]:
    return ort.InferenceSession(content).run(None, dict(given))[0]


def check(proto: onnx.ModelProto, *sizes: Mapping[str, int]) -> tuple[ir.Node, ir.Model]:
    """The one attention of a model, which computes what it did at all of these sizes."""
    graph, ctx = rewritten(proto)
    assert not ctx.refusals
    found = [node for node in graph.graph if ops.is_attention(node)]
    assert len(found) == 1
    assert "Softmax" not in [node.op_type for node in graph.graph]
    content = ir.to_proto(graph).SerializeToString()
    for each in sizes or ({},):
        given = feeds(proto, **each)
        want = outputs(proto.SerializeToString(), given)
        got = outputs(content, given)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    return found[0], graph


def rule_of(node: ir.Node) -> Rule:
    return Rule(*(node.attributes[name].as_int() for name in ("left", "right", "sinks")))


def refusals(proto: onnx.ModelProto) -> list[str]:
    graph, ctx = rewritten(proto)
    assert not any(ops.is_attention(node) for node in graph.graph)
    return [refusal.reason for refusal in ctx.refusals]


OPEN = ({"B": 1, "T": 1}, {"B": 2, "T": 9}, {"B": 3, "T": 70})
COUNTED = """
    shape = Shape(s)
    length = Gather<axis = 0>(shape, two)
    at = Range(zero, length, one)
    rows = Unsqueeze(at, one1)"""
NUMBERS: Arrays = {
    **{name: np.array(n, np.int64) for name, n in (("zero", 0), ("one", 1), ("two", 2))},
    **{name: np.array([n], np.int64) for name, n in (("one1", 1), ("first", 0), ("ends2", 2))},
    "last_axis": np.array([3], np.int64),
    "row_axis": np.array([2], np.int64),
    "five": np.array(5, np.int64),
    "three": np.array(3, np.int64),
    "minus5": np.array(-5, np.int64),
    "f0": np.array(0, np.float32),
    "f1": np.array(1, np.float32),
    "low": np.array(-np.inf, np.float32),
    "least": np.array(np.finfo(np.float32).min, np.float32),
    "buffer": np.tril(np.ones((1, 1, 128, 128), bool)),
    "no": np.array(False),
}
