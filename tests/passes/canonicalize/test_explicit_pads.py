from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sparsecc.capture import capture
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.explicit_pads import ExplicitPads


def conv(auto_pad: str, size: object, kernel: int, stride: int, dilation: int = 1):
    weight = np.random.default_rng(0).standard_normal((3, 2, kernel, kernel)).astype("f4")
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], auto_pad=auto_pad, strides=[stride] * 2, dilations=[dilation] * 2
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 2, size, size])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


@given(
    auto_pad=st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
    size=st.integers(4, 9),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
)
def test_same_output(auto_pad, size, kernel, stride):
    proto = conv(auto_pad, size, kernel, stride)
    model = capture(proto)
    assert run([ExplicitPads()], model, Context(verify=True))
    attributes = model.graph.node(0).attributes
    assert "auto_pad" not in attributes
    assert {"kernel_shape", "strides", "dilations", "group", "pads"} <= set(attributes)
    x = {"x": np.random.default_rng(1).standard_normal((1, 2, size, size)).astype("f4")}
    wanted, got = (ReferenceEvaluator(p).run(None, x)[0] for p in (proto, ir.to_proto(model)))
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_unknown_size_with_stride_one():
    model = capture(conv("SAME_UPPER", "H", 4, 1, 2))
    run([ExplicitPads()], model, Context(verify=True))
    assert list(model.graph.node(0).attributes["pads"].as_ints()) == [3, 3, 3, 3]


def test_unknown_size_with_stride_two_is_refused():
    model, ctx = capture(conv("SAME_UPPER", "H", 3, 2)), Context(verify=True)
    run([ExplicitPads()], model, ctx)
    assert model.graph.node(0).attributes["auto_pad"].as_string() == "SAME_UPPER"
    assert "unknown size" in ctx.refusals[0].reason


@pytest.mark.parametrize("auto_pad", ["VALID", "NOTSET"])
def test_a_second_run_changes_nothing(auto_pad):
    model = capture(conv(auto_pad, "H", 3, 2))
    assert run([ExplicitPads()], model, Context(verify=True))
    assert not run([ExplicitPads()], model, Context(verify=True))
