"""Transformers as regions: each way to write a part of one, in any batch and any length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecc import ops
from tests.passes.regions import test_form
from tests.passes.regions.test_form import calls, check, outputs, regions_of, text_model

library = test_form.library

Floats = NDArray[np.float32]
WIDTH, HEADS = 64, 4
LAYERS = ("q", "k", "v", "o")

SCORES = {
    "keys turned at once": "kt = Transpose<perm = [0, 2, 3, 1]>(ks)\n s = MatMul(qt, kt)",
    "keys turned twice": """
        kh = Transpose<perm = [0, 2, 1, 3]>(ks)
        kt = Transpose<perm = [0, 1, 3, 2]>(kh)
        s = MatMul(qt, kt)""",
    "keys scaled": """
        kh = Transpose<perm = [0, 2, 3, 1]>(ks)
        kt = Mul(kh, part)
        s = MatMul(qt, kt)""",
    "queries scaled": """
        kt = Transpose<perm = [0, 2, 3, 1]>(ks)
        qp = Mul(part, qt)
        s = MatMul(qp, kt)""",
}
SCALES = {
    "by Div": "a = Div(s, root)",
    "by Mul": "a = Mul(s, part)",
    "not at all": "a = Identity(s)",
}
MASKS = {
    "none": "m = Identity(a)",
    "of keys": "m = Add(a, keys)",
    "of queries and keys": "m = Add(pairs, a)",
}


BY_HEAD = """
    qs = Reshape(q, split)
    ks = Reshape(k, split)
    vs = Reshape(v, split)
    qt = Transpose<perm = [0, 2, 1, 3]>(qs)
    vt = Transpose<perm = [0, 2, 1, 3]>(vs)"""
MERGED = """
    ct = Transpose<perm = [0, 2, 1, 3]>(c)
    r = Reshape(ct, merge)
    y = MatMul(r, ow)"""
TOKENS = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[B, T, {WIDTH}] x) => (float[B, T, {WIDTH}] y) """


def encoder(scores: str, scale: str, mask: str) -> str:
    """One attention with its four layers; batch and length are open."""
    return f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[B, T, {WIDTH}] x, float[B, 1, 1, T] keys, float[B, 1, T, T] pairs)
        => (float[B, T, {WIDTH}] y) {{
            q = MatMul(x, qw)
            k = MatMul(x, kw)
            v = MatMul(x, vw)
            {BY_HEAD}
            {SCORES[scores]}
            {SCALES[scale]}
            {MASKS[mask]}
            p = Softmax<axis = -1>(m)
            c = MatMul(p, vt)
            {MERGED}
        }}"""


def sparse(rng: np.random.Generator, block: int, rows: int, cols: int) -> Floats:
    """A weight [inputs, outputs] with blocks of zeros over its outputs."""
    kept = rng.random((rows, cols // block)) < 0.3
    weight = rng.standard_normal((rows, cols)) / rows**0.5
    return (weight * np.repeat(kept, block, axis=1)).astype(np.float32)


def encoder_model(text: str, block: int = 4) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights: dict[str, NDArray[np.generic]] = {
        f"{name}w": sparse(rng, block, WIDTH, WIDTH) for name in LAYERS
    }
    weights["split"] = np.array([0, 0, HEADS, WIDTH // HEADS], np.int64)
    weights["merge"] = np.array([0, 0, -1], np.int64)
    weights["root"] = np.array(4.0, np.float32)
    weights["part"] = np.array(0.5, np.float32)
    used = {name: array for name, array in weights.items() if name in text}
    return text_model(text, used)


def feeds(batch: int, length: int) -> dict[str, Floats]:
    rng = np.random.default_rng(batch * 1000 + length)
    far = np.float32(-1e4)
    shapes = {"keys": (batch, 1, 1, length), "pairs": (batch, 1, length, length)}
    masks = {name: (far * (rng.random(shape) < 0.4)) for name, shape in shapes.items()}
    x = rng.standard_normal((batch, length, WIDTH)).astype(np.float32)
    return {"x": x, **{name: mask.astype(np.float32) for name, mask in masks.items()}}


def kinds(graph: ir.Model) -> list[str]:
    """Op types of the main graph."""
    return [node.op_type for node in graph.graph]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("scores", SCORES)
def test_attention_in_every_spelling_is_one_region(
    library: Path, scores: str, scale: str, mask: str
) -> None:
    graph = check(encoder_model(encoder(scores, scale, mask)), feeds(2, 17), library)
    assert kinds(graph) == ["Region0"]


@pytest.fixture(scope="module", params=[4, 16])
def artifact(request: pytest.FixtureRequest, library: Path) -> tuple[bytes, bytes]:
    """A model with blocks of so many rows, and the same with its region."""
    proto = encoder_model(encoder("keys turned at once", "by Div", "of keys"), request.param)
    graph, _ = regions_of(proto)
    return proto.SerializeToString(), ir.to_proto(graph).SerializeToString()


def test_one_artifact_serves_every_batch_and_length(
    artifact: tuple[bytes, bytes], library: Path
) -> None:
    @settings(max_examples=12, deadline=None)
    @given(st.integers(1, 3), st.integers(1, 140))
    def holds(batch: int, length: int) -> None:
        dense, region = artifact
        (want,) = outputs(dense, feeds(batch, length))
        (got,) = outputs(region, feeds(batch, length), library)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())

    holds()


REFUSED = {
    "heads in another order": ("perm = [0, 2, 1, 3]>(qs)", "perm = [2, 0, 1, 3]>(qs)"),
    "the softmax over queries": ("axis = -1", "axis = 2"),
    "a mask of one number for all keys": ("float[B, 1, 1, T] keys", "float[B, 1, T, 1] keys"),
    "scores for the outside": ("=> (", "=> (float[B, 4, T, T] p, "),
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_only_looks_like_attention_stays_outside(library: Path, change: str) -> None:
    text = encoder("keys turned at once", "by Div", "of keys")
    proto = encoder_model(text.replace(*REFUSED[change]))
    given = feeds(1, 1) if "order" in change else feeds(2, 9)
    if "one number" in change:
        given["keys"] = given["keys"].transpose(0, 1, 3, 2)
    graph = check(proto, given, library)
    assert "Softmax" in kinds(graph)


def test_queries_keys_and_values_of_one_split(library: Path) -> None:
    """Columns of one wide layer, as GPT exporters cut them."""
    text = f"""{TOKENS} {{
            wide = MatMul(x, allw)
            q, k, v = Split<axis = 2>(wide, sizes)
            {BY_HEAD}
            kt = Transpose<perm = [0, 2, 3, 1]>(ks)
            s = MatMul(qt, kt)
            p = Softmax<axis = -1>(s)
            c = MatMul(p, vt)
            {MERGED}
        }}"""
    check_wide(text, [0, 0, HEADS, WIDTH // HEADS], library)


def check_wide(text: str, split: list[int], library: Path) -> None:
    """One product for queries, keys and values is one region."""
    rng = np.random.default_rng(0)
    weights: dict[str, NDArray[np.generic]] = {
        "allw": sparse(rng, 4, WIDTH, 3 * WIDTH),
        "ow": sparse(rng, 4, WIDTH, WIDTH),
        "part": np.array(0.25, np.float32),
        "sizes": np.array([WIDTH] * 3, np.int64),
        "split": np.array(split, np.int64),
        "merge": np.array([0, 0, WIDTH], np.int64),
    }
    weights |= {f"at{index}": np.array(index, np.int64) for index in range(3)}
    weights |= {f"from{index}": np.array([index], np.int64) for index in range(4)}
    used = {name: array for name, array in weights.items() if name in text}
    x = rng.standard_normal((3, 21, WIDTH)).astype(np.float32)
    graph = check(text_model(text, used), {"x": x}, library)
    assert kinds(graph) == ["Region0"]


PICKS = {
    "Gather": "{name} = Gather<axis = 0>(stack, at{index})",
    "Slice and Squeeze": """
        {name}1 = Slice(stack, from{index}, from{next}, from0)
        {name} = Squeeze({name}1, from0)""",
}


@pytest.mark.parametrize("pick", PICKS)
def test_queries_keys_and_values_of_one_stack(library: Path, pick: str) -> None:
    """Heads of all three turned at once and then taken apart, as vision transformers are."""
    picked = "\n".join(
        PICKS[pick].format(name=name, index=index, next=index + 1)
        for index, name in enumerate("qkv")
    )
    text = f"""{TOKENS} {{
            wide = MatMul(x, allw)
            cut = Reshape(wide, split)
            stack = Transpose<perm = [2, 0, 3, 1, 4]>(cut)
            {picked}
            scaled = Mul(q, part)
            kt = Transpose<perm = [0, 1, 3, 2]>(k)
            s = MatMul(scaled, kt)
            p = Softmax<axis = -1>(s)
            c = MatMul(p, v)
            {MERGED}
        }}"""
    check_wide(text, [0, 0, 3, HEADS, WIDTH // HEADS], library)


FLAT_SHAPES = {"pairs": (20, 20), "all": (12, 20, 20)}
FLAT_MASKS = {
    "none": ("m = Identity(s)", True),
    "of queries and keys": ("m = Add(s, pairs)", True),
    "of batch and heads at once": ("m = Add(s, all)", False),
}


@pytest.mark.parametrize("mask", FLAT_MASKS)
def test_batch_and_heads_may_be_one_dimension(library: Path, mask: str) -> None:
    """As torch's products of batches have it; batch and length are numbers then."""
    line, inside = FLAT_MASKS[mask]
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[3, 20, {WIDTH}] x, float[20, 20] pairs, float[12, 20, 20] all)
        => (float[3, 20, {WIDTH}] y) {{
            q = MatMul(x, qw)
            k = MatMul(x, kw)
            v = MatMul(x, vw)
            {BY_HEAD}
            kt = Transpose<perm = [0, 2, 3, 1]>(ks)
            qf = Reshape(qt, rows)
            kf = Reshape(kt, columns)
            vf = Reshape(vt, rows)
            s = MatMul(qf, kf)
            {line}
            p = Softmax<axis = -1>(m)
            f = MatMul(p, vf)
            c = Reshape(f, heads)
            {MERGED}
        }}"""
    rng = np.random.default_rng(0)
    weights: dict[str, NDArray[np.generic]] = {
        f"{name}w": sparse(rng, 4, WIDTH, WIDTH) for name in LAYERS
    }
    weights["split"] = np.array([0, 0, HEADS, WIDTH // HEADS], np.int64)
    weights["merge"] = np.array([0, 0, -1], np.int64)
    weights["rows"] = np.array([12, 20, 16], np.int64)
    weights["columns"] = np.array([12, 16, 20], np.int64)
    weights["heads"] = np.array([3, 4, 20, 16], np.int64)
    given_masks = {name: rng.standard_normal(shape) for name, shape in FLAT_SHAPES.items()}
    used = {name: array.astype(np.float32) for name, array in given_masks.items()}
    x = rng.standard_normal((3, 20, WIDTH)).astype(np.float32)
    graph = check(text_model(text, weights), {"x": x, **used}, library)
    assert ("Softmax" not in kinds(graph)) == inside


def test_tokens_are_turned_at_the_ends_alone() -> None:
    """One encoder in layout T64: one step turns what comes in, one what goes out."""
    from sparsecc.backends.kernels.table import STEPS

    graph, _ = regions_of(encoder_model(encoder("keys turned at once", "by Div", "none")))
    (call,) = calls(graph)
    program = ops_of(call)
    assert [STEPS[kind] for kind in program] == [
        *("to_t64", "matmul", "matmul", "matmul"),
        *("attention", "matmul", "from_t64"),
    ]


def ops_of(call: ir.Node) -> list[int]:
    """Kinds of the steps of a region's program."""
    value = call.inputs[0]
    assert value is not None
    assert value.const_value is not None
    numbers = value.const_value.numpy().tolist()
    at, found = 6 + numbers[4], []
    while at < len(numbers):
        found.append(numbers[at])
        at += 5 + sum(numbers[at + 1 : at + 5])
    assert ops.is_region(call)
    return found
