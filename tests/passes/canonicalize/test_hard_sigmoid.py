from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.capture import capture
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.canonicalize.hard_sigmoid import HardSigmoidForm
from sparsecc.passes.canonicalize.scale_folding import ScaleFolding
from sparsecc.passes.canonicalize.shape_inference import ShapeInference

PASSES = [ShapeInference(), HardSigmoidForm(), ScaleFolding(), DeadCode()]
CONV = "h = Conv<kernel_shape = [1, 1]>(x, w, c)"
RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.standard_normal((6, 4, 1, 1)).astype(np.float32),
    "c": RNG.standard_normal(6).astype(np.float32),
    "zero": np.float32(0),
    "three": np.float32(3),
    "six": np.float32(6),
    "sixth": np.float32(1 / 6),
}
X = {"x": 3 * RNG.standard_normal((2, 4, 3, 5)).astype(np.float32)}


def rewritten(body: str) -> tuple[list[ir.Node], bool]:
    """Nodes after the passes, which compute the same; whether the pass changed anything."""
    head = '<ir_version: 8, opset_import: ["" : 17]>'
    text = f"{head} g (float[N, 4, 3, 5] x) => (float[N, 6, 3, 5] y) {{ {CONV} {body} }}"
    proto = onnx.parser.parse_model(text)
    named = [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in WEIGHTS.items()]
    proto.graph.initializer.extend(named)
    model, ctx = capture(proto), Context(verify=True)
    run(PASSES[:1], model, ctx)
    changed = run(PASSES[1:2], model, ctx)
    run(PASSES[2:], model, ctx)
    want, got = (
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, X)[0]
        for each in (proto, ir.to_proto(model))
    )
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    return list(model.graph), changed


def check_form(nodes: list[ir.Node]) -> None:
    assert [node.op_type for node in nodes] == ["Conv", "HardSigmoid"]
    gate = nodes[-1].attributes
    assert gate.get_float("alpha") == pytest.approx(1 / 6)
    assert gate.get_float("beta") == 0.5


@given(slope=st.floats(0.01, 2), middle=st.floats(-1, 1))
def test_a_layer_takes_slope_and_middle_over(slope: float, middle: float) -> None:
    nodes, _ = rewritten(f"y = HardSigmoid<alpha = {slope:.6f}, beta = {middle:.6f}>(h)")
    check_form(nodes)


@pytest.mark.parametrize(
    "body",
    [
        "y = HardSigmoid(h)",
        "a = Add(h, three) b = Clip(a, zero, six) y = Div(b, six)",
        "a = Add(h, three) b = Clip(a, zero, six) y = Mul(sixth, b)",
        "a = Clip(h, zero, three) y = Div(a, three)",
    ],
)
def test_spellings(body: str) -> None:
    nodes, changed = rewritten(body)
    assert changed
    check_form(nodes)


@pytest.mark.parametrize(
    "body",
    [
        "y = HardSigmoid<alpha = 0.16666667, beta = 0.5>(h)",
        "a = HardSigmoid(h) y = Mul(a, h)",
        "a = Clip(h, zero, six) y = Div(a, three)",
        "a = Clip(h, three, six) y = Div(a, six)",
        "a = Clip(h, zero, six) b = Div(a, six) y = Add(a, b)",
        "a = Clip(h, zero, six) y = Div(six, a)",
        "a = Sigmoid(h) y = HardSigmoid(a)",
    ],
)
def test_what_stays(body: str) -> None:
    _, changed = rewritten(body)
    assert not changed
