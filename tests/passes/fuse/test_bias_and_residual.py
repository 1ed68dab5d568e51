from __future__ import annotations

import numpy as np
import pytest

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("f4")


WEIGHTS = {
    "w": normal(6, 6),
    "u": normal(6, 6),
    "row": normal(6),
    "wide": normal(1, 6),
    "deep": normal(1, 1, 1, 6),
    "column": normal(3, 1),
    "k": normal(4, 4, 3, 3),
    "p": normal(4, 4, 1, 1),
    "channel": normal(4, 1, 1),
    "map": normal(5, 5),
}
X = {"x": normal(2, 3, 6)}
IMAGE = {"x": normal(2, 4, 5, 5)}
HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def linear(body: str, outputs: str = "float[N, T, 6] y") -> str:
    return HEAD + f"g (float[N, T, 6] x) => ({outputs}) {{ {body} }}"


def image(body: str, shape: str = "N, 4, H, W") -> str:
    return HEAD + f"g (float[{shape}] x) => (float[N, 4, P, Q] y) {{ {body} }}"


@pytest.mark.parametrize(("text", "feeds", "fused"), [
    (linear("h = MatMul(x, w) y = Add(h, row)"), X, ["SparseMatMul"]),
    (linear("h = MatMul(x, w) y = Add(wide, h)"), X, ["SparseMatMul"]),
    (linear("h = MatMul(x, w) a = Add(h, row) y = Relu(a)"), X, ["SparseMatMul_relu"]),
    (linear("h = MatMul(x, w) y = Add(h, column)"), X, ["SparseMatMul", "Add"]),
    (linear("h = MatMul(x, w) y = Add(h, deep)", "float[1, N, T, 6] y"), X,
     ["SparseMatMul", "Add"]),
    (image("h = Conv(x, p) y = Add(h, channel)"), IMAGE, ["SparseConv"]),
    (image("h = Conv(x, p) y = Add(h, map)"), IMAGE, ["SparseConv", "Add"]),
])  # fmt: skip
def test_bias(fuse, text, feeds, fused):
    assert fuse(text, WEIGHTS, feeds).ops == fused


@pytest.mark.parametrize(("text", "feeds", "fused"), [
    (linear("h = MatMul(x, w) y = Add(h, x)"), X, ["SparseMatMul_add"]),
    (linear("h = MatMul(x, w) b = Add(row, h) a = Add(x, b) y = Relu(a)"), X,
     ["SparseMatMul_add_relu"]),
    (linear("h = MatMul(x, w) a = Relu(h) y = Add(a, x)"), X, ["SparseMatMul_relu", "Add"]),
    (linear("h = MatMul(x, w) y = Add(h, h)"), X, ["SparseMatMul", "Add"]),
    (linear("h = MatMul(x, w) y = Add(h, x)", "float[N, T, 6] y, float[N, T, 6] h"), X,
     ["SparseMatMul", "Add"]),
    (linear("h = MatMul(x, w) m = ReduceMean<axes = [1]>(x) y = Add(h, m)"), X,
     ["SparseMatMul", "ReduceMean", "Add"]),
    (image("h = Conv<pads = [1, 1, 1, 1]>(x, k) y = Add(h, x)"), IMAGE, ["SparseConv_add"]),
    (image("h = Conv<pads = [1, 1, 1, 1]>(x, k) y = Add(h, x)", "N, 4, 5, 5"), IMAGE,
     ["SparseConv_add"]),
])  # fmt: skip
def test_residual(fuse, text, feeds, fused):
    assert fuse(text, WEIGHTS, feeds).ops == fused


def test_the_later_of_two_sparse_operands_takes_the_other(fuse):
    text = linear("a = MatMul(x, w) b = MatMul(x, u) y = Add(b, a)")
    fused = fuse(text, WEIGHTS, X)
    assert fused.ops == ["SparseMatMul", "SparseMatMul_add"]
    assert fused.names == ["w", "u"]


def test_a_chain_of_blocks(fuse):
    """Every addition joins its block, although each residual is the output of another fusion."""
    body = "".join(
        f"h{i} = MatMul(x{i}, w) r{i} = Relu(h{i}) g{i} = MatMul(r{i}, u)"
        f" x{i + 1} = Add(x{i}, g{i}) "
        for i in range(4)
    )
    text = linear("x0 = Identity(x) " + body + "y = Tanh(x4)")
    fused = fuse(text, WEIGHTS, X)
    assert fused.ops.count("SparseMatMul_add") == 4
    assert "Add" not in fused.ops


def test_dynamic_sizes_are_proved_equal_through_strides_and_pools(fuse):
    """Names that onnx invents for unknown sizes differ, although both branches agree."""
    body = """
      a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, k)
      b = Relu(a)
      c = Conv<pads = [1, 1, 1, 1]>(b, k)
      s = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>(x)
      y = Add(c, s)"""
    fused = fuse(image(body), WEIGHTS, IMAGE)
    assert fused.ops == ["SparseConv_relu", "MaxPool", "SparseConv_add"]


def test_unknown_sizes_are_not_taken_for_equal(fuse):
    """Names such as those that onnx makes up for unknown sizes prove nothing."""
    text = (
        HEAD
        + """
    g (float[N, 4, unk__7, unk__7] x, float[N, 4, unk__7, unk__7] z) => (float[N, 4, P, Q] y) {
      h = Conv(x, p)
      y = Add(h, z)
    }"""
    )
    fused = fuse(text, WEIGHTS, IMAGE | {"z": normal(2, 4, 1, 1)})
    assert fused.ops == ["SparseConv", "Add"]
    assert "same shape" in fused.refusals[0].reason


def test_a_reader_inside_a_subgraph_is_left_alone(fuse):
    text = (
        HEAD
        + """g (float[N, T, 6] x, bool c) => (float[N, T, 6] y) {
      h = MatMul(x, w)
      y = If (c) <
        then_branch = a () => (float[N, T, 6] t) { t = Relu(h) },
        else_branch = b () => (float[N, T, 6] e) { e = Exp(x) }
      >
    }"""
    )
    fused = fuse(text, WEIGHTS, X | {"c": np.array(True)})
    assert fused.ops == ["SparseMatMul", "If"]
