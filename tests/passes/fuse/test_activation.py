from __future__ import annotations

import numpy as np
import pytest

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.standard_normal((6, 8)).astype("f4"),
    "zero": np.array(0, "f4"),
    "half": np.array([0.5], "f4"),
    "one": np.array(1, "f4"),
    "three": np.array(3, "f4"),
    "six": np.array(6, "f4"),
    "sixth": np.array(1 / 6, "f4"),
    "root2": np.array(2**0.5, "f4"),
    "cubic": np.array(0.044715, "f4"),
    "tanh_scale": np.array((2 / np.pi) ** 0.5, "f4"),
    "many": np.full(8, 6.0, "f4"),
}
X = {"x": 4 * RNG.standard_normal((5, 6)).astype("f4")}


def text(body: str, outputs: str = "float[N, 8] y") -> str:
    return f"""<ir_version: 10, opset_import: ["" : 21]>
    g (float[N, 6] x) => ({outputs}) {{ h = MatMul(x, w) {body} }}"""


SPELLINGS = [
    ("relu", "y = Relu(h)"),
    ("relu", "y = Max(zero, h)"),
    ("relu", "a = Relu(h) y = Relu(a)"),
    ("relu6", "y = Clip(h, zero, six)"),
    ("relu6", "a = Relu(h) y = Min(a, six)"),
    ("hardswish", "y = HardSwish(h)"),
    ("hardswish", "a = HardSigmoid<alpha = 0.16666667, beta = 0.5>(h) y = Mul(a, h)"),
    ("hardswish", "a = Add(h, three) b = Clip(a, zero, six) c = Mul(h, b) y = Div(c, six)"),
    ("hardswish", "a = Add(three, h) b = Clip(a, zero, six) c = Mul(b, sixth) y = Mul(h, c)"),
    ("silu", "a = Sigmoid(h) y = Mul(h, a)"),
    ("silu", "a = Neg(h) b = Exp(a) c = Add(b, one) y = Div(h, c)"),
    ("gelu", "y = Gelu(h)"),
    ("gelu", "a = Div(h, root2) b = Erf(a) c = Add(b, one) d = Mul(h, c) y = Mul(d, half)"),
    ("gelu", "a = Div(h, root2) b = Erf(a) c = Add(one, b) d = Mul(half, h) y = Mul(d, c)"),
    ("gelu_tanh", 'y = Gelu<approximate = "tanh">(h)'),
    (
        "gelu_tanh",
        "a = Pow(h, three) b = Mul(a, cubic) c = Add(h, b) d = Mul(c, tanh_scale) e = Tanh(d)"
        " f = Add(e, one) i = Mul(h, f) y = Mul(i, half)",
    ),
    ("sigmoid", "y = Sigmoid(h)"),
    ("hardsigmoid", "y = HardSigmoid<alpha = 0.16666667, beta = 0.5>(h)"),
]


@pytest.mark.parametrize(("activation", "body"), SPELLINGS)
def test_every_spelling(fuse, activation, body):
    fused = fuse(text(body), WEIGHTS, X)
    assert fused.ops == [f"SparseMatMul_{activation}"]
    assert fused.names == ["w"]


def test_what_follows_an_activation_stays(fuse):
    fused = fuse(text("a = Relu(h) b = Mul(a, half) y = Tanh(b)"), WEIGHTS, X)
    assert fused.ops == ["SparseMatMul_relu", "Mul", "Tanh"]


@pytest.mark.parametrize(
    ("body", "kinds"),
    [
        ("y = LeakyRelu(h)", "LeakyRelu"),
        ("y = Clip(h, zero, three)", "Clip"),
        ("a = Mul(h, three) b = Sigmoid(a) y = Mul(h, b)", "Mul + Sigmoid + Mul"),
        ("y = Clip(h, zero)", None),
    ],
)
def test_only_known_functions(fuse, body, kinds):
    fused = fuse(text(body), WEIGHTS, X)
    if kinds is None:
        assert fused.ops == ["SparseMatMul_relu"]
    else:
        assert fused.ops[0] == "SparseMatMul"
        assert f"{kinds} is none of the known activations" in fused.refusals[0].reason


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("y = Relu(h) z = Exp(h)", "float[N, 8] y, float[N, 8] z"),
        ("y = Relu(h)", "float[N, 8] y, float[N, 8] h"),
        ("y = Min(h, many)", "float[N, 8] y"),
    ],
)
def test_other_readers_and_vectors_prevent_it(fuse, body, outputs):
    assert fuse(text(body, outputs), WEIGHTS, X).ops[0] == "SparseMatMul"
