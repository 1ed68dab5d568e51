"""Sizes that a model computes although every run has the same."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.passes.canonicalize.constant_folding import ConstantFolding
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.canonicalize.known_sizes import KnownSizes
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from tests.passes.canonicalize.conftest import make, run_passes

PASSES = (ShapeInference(), KnownSizes(), ConstantFolding(), DeadCode())
SCALED = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[B, T, 16] x) => (float[B, T, 16] y) {
        sizes = Shape(x)
        width = Slice(sizes, last, end)
        number = Cast<to = 1>(width)
        root = Sqrt(number)
        y = Div(x, root)
    }"""
NUMBERS = {"last": np.array([-1], np.int64), "end": np.array([2**62], np.int64)}


@given(st.integers(1, 3), st.integers(1, 5))
def test_a_scale_from_a_known_width_is_a_constant(batch: int, length: int) -> None:
    x = np.random.default_rng(0).standard_normal((batch, length, 16)).astype("f4")
    done = run_passes(PASSES, make(SCALED, NUMBERS), {"x": x})
    assert done.ops == ["Div"]


def test_a_scale_from_an_open_length_is_computed() -> None:
    bounds = {"last": np.array([1], np.int64), "end": np.array([2], np.int64)}
    done = run_passes(PASSES, make(SCALED, bounds), {"x": np.ones((2, 3, 16), np.float32)})
    assert "Sqrt" in done.ops


def test_what_an_expand_makes_is_declared() -> None:
    """As torch repeats a class token: minus one keeps a size, whatever the other is."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[B, T, 16] x) => (float[?, ?, ?] y) {
            batch = Shape<start = 0, end = 1>(x)
            sizes = Concat<axis = 0>(batch, keep, keep)
            same = Equal(sizes, none)
            chosen = Where(same, ones, sizes)
            y = Expand(token, chosen)
        }"""
    arrays = {
        "keep": np.array([-1], np.int64),
        "none": np.array([-1] * 3, np.int64),
        "ones": np.array([1] * 3, np.int64),
        "token": np.ones((1, 1, 16), np.float32),
    }
    done = run_passes(PASSES, make(text, arrays), {"x": np.ones((2, 3, 16), np.float32)})
    (shape,) = (list(value.shape or ()) for value in done.model.graph.outputs)
    assert [str(shape[0]), *shape[1:]] == ["B", 1, 16]
