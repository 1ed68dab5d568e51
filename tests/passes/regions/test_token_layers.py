"""What stands beside attention in a transformer: norms, sums, heads and activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.passes.regions import test_form
from tests.passes.regions.test_form import calls, check, text_model
from tests.passes.regions.test_transformers import kinds, ops_of, sparse

library = test_form.library

NORMS = {
    "LayerNormalization": "n = LayerNormalization<axis = -1, epsilon = 1e-6>(a, scale, shift)",
    "without bias": "n = LayerNormalization<axis = 2, epsilon = 1e-3>(a, scale)",
    "nine nodes": """
        mean = ReduceMean<axes = [-1]>(a)
        apart = Sub(a, mean)
        square = Pow(apart, two)
        variance = ReduceMean<axes = [2]>(square)
        more = Add(variance, eps)
        deviation = Sqrt(more)
        unit = Div(apart, deviation)
        scaled = Mul(unit, scale)
        n = Add(scaled, shift)""",
    "a square by Mul": """
        mean = ReduceMean<axes = [-1]>(a)
        apart = Sub(a, mean)
        square = Mul(apart, apart)
        variance = ReduceMean<axes = [-1]>(square)
        more = Add(eps, variance)
        deviation = Sqrt(more)
        unit = Div(apart, deviation)
        scaled = Mul(scale, unit)
        n = Add(shift, scaled)""",
}
ENDS = {
    "tokens": "y = Identity(b)",
    "one token": "y = Gather<axis = 1>(b, last)",
    "a dense head": "h = MatMul(b, head)\n y = Add(bias, h)",
    "a dense head without bias": "y = MatMul(b, head)",
    "a Gemm of one token": "t = Gather<axis = 1>(b, last)\n y = Gemm<transB = 1>(t, rows, bias)",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("norm", NORMS)
def test_norms_sums_and_heads_are_in_the_region(library: Path, norm: str, end: str) -> None:
    rng = np.random.default_rng(0)
    shape = "B, 7" if "one token" in end else "B, T, 7"
    result = {"tokens": "B, T, 64", "one token": "B, 64"}.get(end, shape)
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[B, T, 64] x, float[B, T, 64] z) => (float[{result}] y) {{
            w = Add(x, z)
            p = Add(position, w)
            a = MatMul(p, aw)
            {NORMS[norm]}
            b = MatMul(n, bw)
            {ENDS[end]}
        }}"""
    weights: dict[str, NDArray[np.generic]] = {
        "position": rng.standard_normal((1, 33, 64)).astype(np.float32),
        "aw": sparse(rng, 4, 64, 64),
        "bw": sparse(rng, 4, 64, 64),
        "scale": rng.standard_normal(64).astype(np.float32),
        "shift": rng.standard_normal(64).astype(np.float32),
        "two": np.array(2, np.float32),
        "eps": np.array(1e-5, np.float32),
        "last": np.array(-1, np.int64),
        "head": rng.standard_normal((64, 7)).astype(np.float32),
        "rows": rng.standard_normal((7, 64)).astype(np.float32),
        "bias": rng.standard_normal(7).astype(np.float32),
    }
    text = text.replace("T, 64] x", "33, 64] x").replace("T, 64] z", "33, 64] z")
    used = {name: array for name, array in weights.items() if f"{name}" in text}
    x, z = (rng.standard_normal((3, 33, 64)).astype(np.float32) for _ in range(2))
    graph = check(text_model(text, used), {"x": x, "z": z}, library)
    assert kinds(graph) == ["Region0"]
    assert len(calls(graph)) == 1


GELUS = {
    "none": "b = Gelu(a)",
    "tanh": 'b = Gelu<approximate = "tanh">(a)',
    "five nodes": """
        d = Div(a, root)
        e = Erf(d)
        f = Add(e, one)
        h = Mul(a, f)
        b = Mul(h, half)""",
    "by tanh in nodes": """
        c = Mul(a, a)
        d = Mul(a, c)
        e = Mul(d, cubed)
        f = Add(a, e)
        h = Mul(f, wide)
        i = Tanh(h)
        j = Add(i, one)
        k = Mul(a, half)
        b = Mul(k, j)""",
}


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("form", GELUS)
def test_gelu_in_every_spelling_joins_the_layer_before(library: Path, form: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
        g (float[B, 40, 64] x) => (float[B, 40, 64] y) {{
            p = MatMul(x, first)
            a = Add(p, bias)
            {GELUS[form]}
            y = MatMul(b, last)
        }}"""
    weights: dict[str, NDArray[np.generic]] = {
        "first": sparse(rng, 4, 64, 64) if kind == "sparse" else rng.standard_normal((64, 64)),
        "last": sparse(rng, 4, 64, 64),
        "bias": rng.standard_normal(64),
        "root": np.array(2**0.5),
        "one": np.array(1.0),
        "half": np.array(0.5),
        "cubed": np.array(0.044715),
        "wide": np.array((2 / np.pi) ** 0.5),
    }
    used = {name: array.astype(np.float32) for name, array in weights.items() if name in text}
    x = rng.standard_normal((2, 40, 64)).astype(np.float32)
    graph = check(text_model(text, used), {"x": x}, library)
    (call,) = calls(graph)
    assert kinds(graph) == ["Region0"]
    assert len(ops_of(call)) == 4  # two products, and tokens turned at both ends
