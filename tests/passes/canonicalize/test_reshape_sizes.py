from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.capture import capture
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.canonicalize.reshape_sizes import ReshapeSizes
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from tests.passes.canonicalize.conftest import make, run_passes

PASSES = (ShapeInference(), ReshapeSizes(), DeadCode())
NUMBERS = {name: np.array([number], np.int64) for name, number in (("four", 4), ("six", 6))}


def heads(result: str = "B, T, 4, 6", sizes: str = "b, t, four, six", more: str = "") -> str:
    """Heads cut with the batch and the length read from the input, as torch writes it."""
    return f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[B, T, 24] x) => (float[{result}] y) {{
            b = Shape<start = 0, end = 1>(x)
            t = Shape<start = 1, end = 2>(x)
            sizes = Concat<axis = 0>({sizes})
            y = Reshape{more}(x, sizes)
        }}"""


def sizes_of(model: ir.Model) -> list[int]:
    (reshape,) = (node for node in model.graph if node.op_type == "Reshape")
    value = reshape.inputs[1]
    assert value is not None
    assert value.const_value is not None
    return [int(size) for size in value.const_value.numpy()]


@given(st.integers(1, 3), st.integers(1, 9), st.sampled_from(["", "<allowzero = 1>"]))
def test_open_sizes_are_copied(batch: int, length: int, more: str) -> None:
    x = np.random.default_rng(0).standard_normal((batch, length, 24)).astype("f4")
    done = run_passes(PASSES, make(heads(more=more), NUMBERS), {"x": x})
    assert done.ops == ["Reshape"]
    assert sizes_of(done.model) == [0, 0, 4, 6]
    assert "allowzero" not in done.model.graph.node(0).attributes


def test_one_size_that_is_not_a_copy_is_the_rest() -> None:
    text = heads("T, B, 24", "t, b, all")
    x = np.zeros((2, 3, 24), np.float32)
    done = run_passes(PASSES, make(text, {"all": np.array([24], np.int64)}), {"x": x})
    assert "Shape" in done.ops  # two of them are not: length and batch have changed places
    flat = heads("N, 24", "rows, all", "").replace("sizes = ", "rows = Mul(b, t)\n sizes = ", 1)
    done = run_passes(PASSES, make(flat, {"all": np.array([24], np.int64)}), {"x": x})
    assert sizes_of(done.model) == [-1, 24]


@pytest.mark.parametrize("more", ["", "<allowzero = 1>"])
def test_what_is_constant_already_stays(more: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[B, T, 24] x) => (float[B, T, 4, 6] y) {{ y = Reshape{more}(x, sizes) }}"""
    model = capture(make(text, {"sizes": np.array([1, -1, 4, 6], np.int64)}))
    assert not run([ReshapeSizes()], model, Context(verify=True))
