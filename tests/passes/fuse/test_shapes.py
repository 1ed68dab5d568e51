from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from sparsecc.capture import capture
from sparsecc.passes.fuse.shapes import Shapes

WEIGHTS = {
    "k": np.zeros((4, 4, 3, 3), "f4"),
    "m": np.zeros((6, 5), "f4"),
    "table": np.zeros((9, 6), "f4"),
    "scales": np.array([1, 1, 2, 2], "f4"),
    "row": np.zeros(6, "f4"),
}
INPUTS = "float[N, 4, unk__0, unk__1] x, float[N, T, 6] s, int64[N, T] i"
RNG = np.random.default_rng(0)
FEEDS = {
    "x": RNG.standard_normal((2, 4, 9, 8)).astype("f4"),
    "s": RNG.standard_normal((2, 3, 6)).astype("f4"),
    "i": np.ones((2, 3), np.int64),
}
SLIDE = "kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]"
CEIL = "kernel_shape = [2, 2], strides = [2, 2]"


def shapes_of(body: str) -> tuple[bool, bool]:
    """Whether a and b are proved to have equal shapes, and whether they have in a run."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g ({INPUTS}) => (float[] a, float[] b) {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in WEIGHTS.items())
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    a, b = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, FEEDS)
    model = capture(proto)
    return Shapes(model).equal(*model.graph.outputs), a.shape == b.shape


@pytest.mark.parametrize("body", [
    "a = Relu(x) h = Sigmoid(x) b = Mul(h, x)",
    f"a = Conv<{SLIDE}>(x, k) b = MaxPool<{SLIDE}>(x)",
    f"a = Conv<{SLIDE}>(x, k) b = AveragePool<{SLIDE}>(x)",
    "a = Conv<pads = [2, 2, 2, 2], dilations = [2, 2]>(x, k) b = Neg(x)",
    "g1 = GlobalAveragePool(x) a = Mul(x, g1) b = Relu(x)",
    "a = GlobalAveragePool(x) b = GlobalMaxPool(x)",
    "t = Transpose<perm = [0, 1, 3, 2]>(x) a = Transpose<perm = [0, 1, 3, 2]>(t) b = Exp(x)",
    "a = Transpose(x) h = Relu(x) b = Transpose(h)",
    "a = Concat<axis = 1>(x, x) r = Relu(x) b = Concat<axis = 1>(r, x)",
    "a = Concat<axis = 2>(x, x) r = Relu(x) b = Concat<axis = 2>(r, x)",
    "r = Relu(x) a = Resize(x, , scales) b = Resize(r, , scales)",
    "a = Gather<axis = 0>(table, i) b = Relu(s)",
    "a = MatMul(s, m) r = Relu(s) b = MatMul(r, m)",
    "a = Add(s, row) b = Relu(s)",
    "a = ReduceMean<axes = [-1], keepdims = 0>(s) b = ReduceMax<axes = [2], keepdims = 0>(s)",
    "q = ReduceMean<axes = [-1]>(s) a = Sub(s, q) b = Relu(s)",
    "a = Softmax(s) b = LayerNormalization(s, row)",
])  # fmt: skip
def test_proved(body):
    assert shapes_of(body) == (True, True)


@pytest.mark.parametrize("body", [
    f"a = MaxPool<{CEIL}, ceil_mode = 1>(x) b = MaxPool<{CEIL}>(x)",
    f'a = Conv<auto_pad = "VALID">(x, k) b = MaxPool<{CEIL}>(x)',
    "a = Transpose<perm = [0, 1, 3, 2]>(x) b = Relu(x)",
    "a = Concat<axis = 1>(x, x) b = Relu(x)",
    "a = Resize(x, , scales) b = Relu(x)",
    "a = GlobalAveragePool(x) b = Relu(x)",
    "a = ReduceMean<axes = [2]>(x) b = ReduceMean<axes = [3]>(x)",
    "a = Relu(s) b = Relu(x)",
])  # fmt: skip
def test_never_proved_of_shapes_that_differ(body):
    assert shapes_of(body) == (False, False)


def test_what_an_unknown_op_makes_is_equal_only_to_itself():
    body = "n = NonZero(x) f = Cast<to = 1>(n) a = Relu(f) b = Exp(f)"
    assert shapes_of(body) == (False, True)
