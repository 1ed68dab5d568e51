"""Models with sparse parts that a GPU runs by our kernels, as the compiler has them by then."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sparsecc import ops
from sparsecc.capture import capture
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.weights.layers import find_layers
from sparsecc.passes.weights.pack_mixtures import PackMixtures
from sparsecc.passes.weights.to_sparse import replace_layer
from sparsecc.targets import TARGETS
from tests import small

Arrays = Mapping[str, NDArray[np.generic]]
CAUSAL = "left = 2147483647, right = 0, sinks = 0"
WINDOW = "left = 40, right = 40, sinks = 3"
ALL = "left = 2147483647, right = 2147483647, sinks = 0"
HEAD = '<ir_version: 8, opset_import: ["" : 17, "sparsecc" : 1]>'
_BLOCK = (16, 1)


def _of(text: str, weights: Arrays) -> ir.Model:
    proto = onnx.parser.parse_model(f"{HEAD}\n{text}")
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return ir.from_proto(proto)


def _finished(model: ir.Model) -> ir.Model:
    ops.attach_functions(model)
    run([ShapeInference(), *pipeline.EXACT_AFTER[1:]], model, Context())
    return model


def _pruned(rng: np.random.Generator, rows: int, columns: int, kept: float) -> NDArray[np.float32]:
    """A weight ``[columns, rows]`` of which blocks of 16 outputs are kept."""
    blocks = rng.random((columns, -(-rows // _BLOCK[0]))) < kept
    weight = rng.standard_normal((columns, rows)) / (columns * kept) ** 0.5
    return (weight * np.repeat(blocks, _BLOCK[0], axis=1)[:, :rows]).astype(np.float32)


def _packed(model: ir.Model, names: set[str]) -> ir.Model:
    run(pipeline.EXACT_BEFORE, model, Context())
    for layer in find_layers(model).layers:
        if layer.name in names:
            replace_layer(layer, _BLOCK)
    model.opset_imports[ops.DOMAIN] = ops.VERSION
    return _finished(model)


def mlp(rows: int = 37) -> ir.Model:
    """Two sparse linears with bias and ReLU, and a dense one."""
    proto = small.mlp(rows)
    rng = np.random.default_rng(3)
    for each in proto.graph.initializer:
        if each.name in ("fc1.weight", "fc2.weight"):
            each.CopyFrom(numpy_helper.from_array(_pruned(rng, 256, 256, 0.25), each.name))
    return _packed(capture(proto), {"fc1", "fc2"})


def residual() -> ir.Model:
    """A sparse linear over tokens of a batch whose output meets a residual: 3 × 5 × 72 → 72."""
    rng = np.random.default_rng(4)
    text = """g (float[3, 5, 72] x) => (float[3, 5, 72] y) {
        [fc] a = MatMul(x, w)  b = Add(a, bias)  c = Add(b, x)  y = Relu(c) }"""
    weights = {"w": _pruned(rng, 72, 72, 0.4), "bias": rng.standard_normal(72).astype(np.float32)}
    return _packed(_of(text, weights), {"fc"})


def token() -> ir.Model:
    """One token of many inputs: columns are split into parts that a launch of its own adds."""
    rng = np.random.default_rng(5)
    text = "g (float[1, 4096] x) => (float[1, 48] y) { [fc] a = MatMul(x, w)  y = Tanh(a) }"
    return _packed(_of(text, {"w": _pruned(rng, 48, 4096, 0.5)}), {"fc"})


def dense() -> ir.Model:
    """A block of a transformer without any zeros: its products and its attention."""
    rng = np.random.default_rng(8)
    text = """g (float[2, 70, 128] x) => (float[2, 70, 128] y) {
        [wq] qf = MatMul(x, wq)  [wk] kf = MatMul(x, wk)  [wv] vf = MatMul(x, wv)
        qs = Reshape(qf, many)  ks = Reshape(kf, many)  vs = Reshape(vf, many)
        q = Transpose <perm = [0, 2, 1, 3]> (qs)
        k = Transpose <perm = [0, 2, 3, 1]> (ks)
        v = Transpose <perm = [0, 2, 1, 3]> (vs)
        s = MatMul(q, k)  scaled = Mul(s, scale)  p = Softmax <axis = -1> (scaled)
        [attend] a = MatMul(p, v)
        t = Transpose <perm = [0, 2, 1, 3]> (a)
        f = Reshape(t, flat)
        [wo] y = MatMul(f, wo) }"""
    weights: dict[str, NDArray[np.generic]] = {
        name: rng.standard_normal((128, 128)).astype(np.float32) / 11
        for name in ("wq", "wk", "wv", "wo")
    }
    weights |= {"many": np.array([2, 70, 2, 64]), "flat": np.array([2, 70, 128])}
    return _finished(_of(text, weights | {"scale": np.float32(0.125)}))


def mixed() -> ir.Model:
    """An attention that leaves nothing out, before a sparse linear with bias and an activation."""
    model = ir.to_proto(dense())
    rng = np.random.default_rng(9)
    for each in model.graph.initializer:
        if each.name == "wo":
            each.CopyFrom(numpy_helper.from_array(_pruned(rng, 128, 128, 0.3), "wo"))
    bias = rng.standard_normal(128).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    model.graph.node[-1].output[0] = "product"
    model.graph.node.extend(
        [
            helper.make_node("Add", ["product", "bias"], ["sum"]),
            helper.make_node("Sigmoid", ["sum"], ["y"]),
        ]
    )
    return _packed(ir.from_proto(model), {"wo"})


def attention(
    rule: str = CAUSAL, shared: int = 1, features: int = 64, length: int = 150
) -> ir.Model:
    """An attention of four heads between products, with fewer heads of keys if they are shared."""
    rng, heads = np.random.default_rng(6), 4
    wide, few = heads * features, heads // shared * features
    text = f"""g (float[2, {length}, 96] x) => (float[2, {length}, 96] y) {{
        qf = MatMul(x, wq)  kf = MatMul(x, wk)  vf = MatMul(x, wv)
        qs = Reshape(qf, many)  ks = Reshape(kf, less)  vs = Reshape(vf, less)
        q = Transpose <perm = [0, 2, 1, 3]> (qs)
        k = Transpose <perm = [0, 2, 1, 3]> (ks)
        v = Transpose <perm = [0, 2, 1, 3]> (vs)
        [attend] a = sparsecc.BlockSparseAttention <scale = 0.2, {rule}> (q, k, v)
        t = Transpose <perm = [0, 2, 1, 3]> (a)
        f = Reshape(t, flat)
        y = MatMul(f, wo) }}"""
    weights: dict[str, NDArray[np.generic]] = {
        "wq": rng.standard_normal((96, wide)).astype(np.float32) / 10,
        "wk": rng.standard_normal((96, few)).astype(np.float32) / 10,
        "wv": rng.standard_normal((96, few)).astype(np.float32) / 10,
        "wo": rng.standard_normal((wide, 96)).astype(np.float32) / 16,
        "many": np.array([2, length, heads, features]),
        "less": np.array([2, length, heads // shared, features]),
        "flat": np.array([2, length, wide]),
    }
    return _finished(_of(text, weights))


def blocks(features: int = 128) -> ir.Model:
    """Attention over kept blocks of 32 × 64 tokens, other ones for each of two heads."""
    rng, grid = np.random.default_rng(7), (2, 5, 3, 32, 64)
    kept = rng.random(grid[:3]) < 0.5
    kept[0, 1] = False  # queries that see nothing
    text = f"""g (float[1, 2, 150, {features}] q, float[1, 2, 170, {features}] k)
        => (float[1, 2, 150, {features}] y) {{
        [attend] y = sparsecc.BlockSparseAttention_blocks <scale = 0.1, {ALL}>
            (q, k, k, at, grid) }}"""
    index = np.flatnonzero(kept).astype(np.int32)
    return _finished(_of(text, {"at": index, "grid": np.array(grid)}))


def _kept(kept: NDArray[np.bool_], tokens: int) -> ir.Model:
    """Two linears of which some weights are kept."""
    proto, rng = small.mlp(tokens), np.random.default_rng(8)
    for each in proto.graph.initializer:
        if each.name in ("fc1.weight", "fc2.weight"):
            weight = rng.standard_normal(kept.shape) * kept / kept.sum(0).mean() ** 0.5
            each.CopyFrom(numpy_helper.from_array(weight.astype(np.float32), each.name))
    return _packed(capture(proto), {"fc1", "fc2"})


def gemms() -> ir.Model:
    """Linear layers without zeros, stored both ways: 20 × 64 → 96 → 80."""
    rng = np.random.default_rng(10)
    text = """g (float[20, 64] x) => (float[20, 80] y) {
        [up] a = Gemm <transB = 1> (x, w, b)  r = Relu(a)  [down] c = Gemm (r, v, d)
        y = Softplus(c) }"""
    sizes = {"w": (96, 64), "b": (96,), "v": (96, 80), "d": (1, 80)}
    model = _of(text, {n: rng.standard_normal(s).astype(np.float32) for n, s in sizes.items()})
    run(pipeline.EXACT_BEFORE, model, Context())
    return model


def bits() -> ir.Model:
    """Linears with zeros anywhere, of 5 tokens."""
    return _kept(np.random.default_rng(8).random((256, 256)) < 0.2, 5)


def pairs() -> ir.Model:
    """Linears that keep two of four inputs."""
    order = np.random.default_rng(8).random((64, 4, 256)).argsort(1)
    return _kept((order < 2).reshape(256, 256), 20)


def masked() -> ir.Model:
    """Attention with a mask that is added to its scores."""
    text = f"""g (float[1, 2, 70, 64] q, float[1, 1, 70, 70] m) => (float[1, 2, 70, 64] y) {{
        [attend] y = sparsecc.BlockSparseAttention_mask <scale = 0.1, {ALL}> (q, q, q, m) }}"""
    return _finished(_of(text, {}))


def experts(
    gated: bool = True, bias: bool = False, packed: str = "", features: int = 48, tokens: str = "9"
) -> ir.Model:
    """A router in front of two of five experts, and a residual.

    Args:
        gated: Whether hidden features are multiplied by others.
        bias: Whether there are biases.
        packed: "zeros" or "codes": weights with them, packed; or dense in the op as they are.
        features: Of a token.
        tokens: How many; a name if that is open.
    """
    rng, sizes = np.random.default_rng(9), (5, 80, features)
    shapes = {"up": sizes, "gate": sizes, "down": (5, features, 80)}
    weights: dict[str, NDArray[np.generic]] = {
        name: (rng.standard_normal(shape) / 8).astype(np.float32)
        for name, shape in shapes.items()
        if name != "gate" or gated
    }
    if packed == "zeros":
        for each in weights.values():
            each[:, :16, ::2] = 0
    if packed == "codes":
        weights = {
            name: np.rint(each * 40).clip(-7, 7) * np.float32(0.03)
            for name, each in weights.items()
        }
    if bias:
        made = {f"{name}_bias": each[:, :, 0] * 3 for name, each in weights.items()}
        weights |= {name: np.ascontiguousarray(each) for name, each in made.items()}
    op = ops.moe_variant("silu" if gated else "gelu", gated=gated, bias=bias)
    text = f"""g (float[{tokens}, {features}] x) => (float[{tokens}, {features}] y) {{
        scores = MatMul(x, router)  p = Softmax <axis = -1> (scores)
        gates, chosen = TopK <axis = -1> (p, k)
        [moe] m = sparsecc.{op} (x, chosen, gates, {", ".join(weights)})
        y = Add(m, x) }}"""
    others = {"router": rng.standard_normal((features, 5)).astype(np.float32), "k": np.array([2])}
    model = _of(text, {**weights, **others})
    if packed:
        run([ShapeInference(), PackMixtures(TARGETS["cuda-sm_90"])], model, Context())
    return _finished(model)


CASES: Mapping[str, Callable[[], ir.Model]] = {
    "mlp": mlp,
    "dense": dense,
    "mixed": mixed,
    "residual": residual,
    "token": token,
    "causal": attention,
    "window": lambda: attention(WINDOW, shared=2, length=129),
    "blocks": blocks,
    "wide": lambda: attention(CAUSAL, features=128, length=70),
    "bits": bits,
    "gemms": gemms,
    "pairs": pairs,
    "narrow": lambda: attention(CAUSAL, features=32, length=40),  # no kernel: dense
    "experts": lambda: experts(packed="zeros", bias=True),
    "plain-experts": lambda: experts(gated=False),
    "coded-experts": lambda: experts(packed="codes"),
    "dense-experts": lambda: experts(features=40, bias=True),  # no kernel: every expert
}
FORMS_OF = {"bits": "bitmap", "pairs": "2:4"}
"""Of weights, by case; those of others are columns."""


def feed(model: ir.Model, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Inputs of a model."""
    rng = np.random.default_rng(seed)
    return {
        str(each.name): rng.standard_normal([int(dim) for dim in each.shape or ()]).astype(
            np.float32
        )
        for each in model.graph.inputs
    }
