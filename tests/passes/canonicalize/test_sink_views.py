"""Turns of tokens meet behind the layers between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.canonicalize.sink_views import SinkViews
from tests.passes.canonicalize.conftest import make, run_passes

PASSES = (ShapeInference(), SinkViews(), DeadCode())
BETWEEN = {
    "product and bias": "p = MatMul(t, w)\n q = Add(bias, p)",
    "activation": "p = MatMul(t, w)\n q = Relu(p)",
    "flat rows": """
        rows = Reshape(t, flat)
        p = Gemm<transB = 1>(rows, turned, bias)
        q = Reshape(p, apart)""",
}


def arrays(rng: np.random.Generator, batch: int) -> dict[str, np.ndarray]:
    weight = rng.standard_normal((8, 6)).astype(np.float32)
    return {
        "w": weight,
        "turned": np.ascontiguousarray(weight.T),
        "bias": rng.standard_normal(6).astype(np.float32),
        "flat": np.array([-1, 8], np.int64),
        "apart": np.array([-1, batch, 6], np.int64),
    }


def model(between: str, batch: int):
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[{batch}, T, 8] x) => (float[{batch}, T, 6] y) {{
            t = Transpose<perm = [1, 0, 2]>(x)
            {between}
            z = Transpose<perm = [1, 0, 2]>(q)
            y = Identity(z)
        }}"""
    weights = arrays(np.random.default_rng(0), batch)
    return make(text, {name: array for name, array in weights.items() if name in between})


@pytest.mark.parametrize("between", BETWEEN)
def test_two_turns_are_none(between: str) -> None:
    @given(st.integers(2, 3), st.integers(1, 9))
    def holds(batch: int, length: int) -> None:
        x = np.random.default_rng(1).standard_normal((batch, length, 8)).astype("f4")
        done = run_passes(PASSES, model(BETWEEN[between], batch), {"x": x})
        assert not {"Transpose", "Reshape", "Gemm"} & set(done.ops)

    holds()


@pytest.mark.parametrize(
    "between",
    [
        "p = Softmax<axis = 0>(t)\n q = MatMul(p, w)",
        "s = Slice(t, first, end, first)\n p = MatMul(s, w)\n q = Concat<axis = 0>(p, p)",
    ],
)
def test_what_mixes_tokens_stays_between(between: str) -> None:
    bounds = {"first": np.array([0], np.int64), "end": np.array([1], np.int64)}
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 2, 8] x) => (float[2, 2, 6] y) {{
            t = Transpose<perm = [1, 0, 2]>(x)
            {between}
            y = Transpose<perm = [1, 0, 2]>(q)
        }}"""
    weights = arrays(np.random.default_rng(0), 2) | bounds
    used = {name: array for name, array in weights.items() if name in between}
    x = np.random.default_rng(1).standard_normal((2, 2, 8)).astype("f4")
    done = run_passes(PASSES, make(text, used), {"x": x})
    assert done.ops.count("Transpose") == 2


@given(st.integers(2, 3), st.integers(1, 9))
def test_flat_tokens_of_gated_layers_are_read_as_they_lie(batch: int, length: int) -> None:
    """SiLU times another product, as SwiGLU has it: the views of both factors meet."""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in {"u": (8, 6), "g": (8, 6), "d": (6, 8)}.items()
    } | {"flat": np.array([-1, 8], np.int64), "apart": np.array([batch, -1, 8], np.int64)}
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        f (float[{batch}, T, 8] x) => (float[{batch}, T, 8] y) {{
            rows = Reshape(x, flat)
            up = MatMul(rows, u)
            gate = MatMul(rows, g)
            s = Sigmoid(gate)
            silu = Mul(gate, s)
            both = Mul(silu, up)
            down = MatMul(both, d)
            z = Reshape(down, apart)
            y = Identity(z)
        }}"""
    x = np.random.default_rng(1).standard_normal((batch, length, 8)).astype("f4")
    done = run_passes(PASSES, make(text, weights), {"x": x})
    assert "Reshape" not in done.ops


def test_what_was_reshaped_otherwise_stays() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        f (float[2, 12] a, float[3, 8] b) => (float[4, 6] y) {
            p = Reshape(a, size)
            q = Reshape(b, size)
            y = Mul(p, q)
        }"""
    rng = np.random.default_rng(1)
    feed = {"a": rng.standard_normal((2, 12)), "b": rng.standard_normal((3, 8))}
    done = run_passes(
        PASSES,
        make(text, {"size": np.array([4, 6], np.int64)}),
        {name: array.astype(np.float32) for name, array in feed.items()},
    )
    assert done.ops.count("Reshape") == 2
