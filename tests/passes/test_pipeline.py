from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from sparsecc.capture import capture
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.names import name_nodes


def test_every_pass_is_exact_named_and_explained():
    lists = (pipeline.EXACT_BEFORE, pipeline.EXACT_AFTER)
    source = Path(pipeline.__file__).read_text()
    for each in (each for passes in lists for each in passes):
        assert each.kind == "exact"
        assert each.name == each.name.lower().replace("_", "-")
        assert f"{type(each).__name__}(),  # " in source


def network(opset: int) -> onnx.ModelProto:
    """Two convolutions with everything the passes fold, and a linear layer."""
    rng = np.random.default_rng(0)
    weights = {
        "conv1.weight": rng.standard_normal((8, 3, 3, 3)),
        "conv2.weight": rng.standard_normal((8, 1, 3, 3)),
        "fc.weight": rng.standard_normal((10, 8)),
        **{name: rng.uniform(0.5, 1, 8) for name in ("s", "b", "m", "v")},
        "shift": rng.standard_normal((8, 1, 1)),
        "c": rng.standard_normal(10),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "conv1.weight"], ["c1"], auto_pad="SAME_UPPER", strides=[2, 2]),
        node("BatchNormalization", ["c1", "s", "b", "m", "v"], ["n1"]),
        node("Relu", ["n1"], ["r1"]),
        node("Conv", ["r1", "conv2.weight"], ["c2"], group=8),
        node("Add", ["c2", "shift"], ["a2"]),
        node("Dropout", ["a2"], ["d2"]),
        node("GlobalAveragePool", ["d2"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Transpose", ["fc.weight"], ["t"], perm=[1, 0]),
        node("Gemm", ["f", "t", "c"], ["y"], alpha=0.5, beta=2.0),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", 1, ["N", 3, 9, 9])],
        [helper.make_tensor_value_info("y", 1, ["N", 10])],
        [numpy_helper.from_array(array.astype("f4"), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=6 if opset < 15 else 10)


@pytest.mark.parametrize("opset", [11, 13, 17, 21, 23, 24])
def test_canonical_form(opset):
    proto = network(opset)
    model, ctx = capture(proto), Context(verify=True)
    assert run(pipeline.EXACT_BEFORE, model, ctx)
    assert not ctx.refusals
    ops = [node.op_type for node in model.graph]
    assert ops == ["Conv", "Relu", "Conv", "GlobalAveragePool", "Flatten", "Gemm"]
    assert [n.name for n in model.graph if n.op_type == "Conv"] == ["conv1", "conv2"]
    assert model.opset_imports[""] == min(opset, 21)
    x = {"x": np.random.default_rng(1).standard_normal((2, 3, 9, 9)).astype("f4")}
    wanted, got = (
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, x)[0]
        for each in (proto, ir.to_proto(model))
    )
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_a_second_run_changes_nothing_and_runs_are_equal():
    contents = []
    for _ in range(2):
        model = capture(network(17))
        run(pipeline.EXACT_BEFORE, model, Context(verify=True))
        contents.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert contents[0] == contents[1]
    assert not run(pipeline.EXACT_BEFORE, model, Context(verify=True))


def test_names():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3] x) => (float[N, 3] y) { a = Relu(x) b = Exp(a) c = Abs(b) y = MatMul(c, w) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((3, 3), "f4"), "body.0.weight"))
    proto.graph.node[3].input[1] = "body.0.weight"
    for node, name in zip(proto.graph.node, ("kept", "kept", "", ""), strict=True):
        node.name = name
    model = ir.serde.deserialize_model(proto)
    name_nodes(model)
    assert [node.name for node in model.graph] == ["kept", "kept_2", "c", "body.0"]
