"""Products without zeros: taken into the library beside sparse ones where that pays; exactly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc import ops, targets
from sparsecc.capture import capture
from sparsecc.inspection import rewrite
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights.dense_products import DenseProducts
from tests.passes.regions.test_form import outputs, regions_of, sparse, text_model

TARGET = targets.TARGETS["x86-64"]


def between(tokens: object, width: int = 64, outputs: int = 48, middle: str = "Relu(a)") -> str:
    """A sparse product, something, and a dense one; batch is open."""
    return f"""<ir_version: 9, opset_import: ["" : 20]>
        g (float[B, {tokens}, {width}] x) => (float[B, {tokens}, {outputs}] y) {{
            a = MatMul(x, w)
            b = {middle}
            c = MatMul(b, dense)
            y = Add(c, bias)
        }}"""


def weights(width: int = 64, outputs: int = 48) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "w": np.ascontiguousarray(sparse(rng, width, width).T),
        "dense": rng.standard_normal((width, outputs)).astype(np.float32),
        "bias": rng.standard_normal(outputs).astype(np.float32),
    }


def rewritten(text: str, arrays: dict[str, np.ndarray]) -> tuple[ir.Model, dict[str, str]]:
    """The model before regions, and why products stayed where they were."""
    proto = text_model(text, arrays)
    for at, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}{at}"
    graph, ctx = capture(proto), Context(target=TARGET)
    run(pipeline.EXACT_BEFORE, graph, ctx)
    rewrite(graph, TARGET, ctx)
    return graph, {r.node: r.reason for r in ctx.refusals if r.pass_name == DenseProducts.name}


def test_a_dense_product_takes_its_bias_along() -> None:
    graph, reasons = rewritten(between(128), weights())
    assert [node.op_type for node in graph.graph] == ["SparseMatMul_relu", "SparseMatMul"]
    assert not reasons


@pytest.mark.parametrize("cut", ["Cos(a)", "Elu(a)"])
def test_beside_is_what_a_region_can_hold_between(cut: str) -> None:
    graph, _ = rewritten(between(128, middle=cut), weights())
    assert [node.op_type for node in graph.graph][-2:] == ["MatMul", "Add"]


def test_a_few_tokens_leave_lanes_empty() -> None:
    graph, reasons = rewritten(between(16, 768, 768), weights(768, 768))
    assert "as fast" in reasons["MatMul2"]
    assert "MatMul" in [node.op_type for node in graph.graph]


def test_a_model_without_zeros_is_left_alone() -> None:
    arrays = weights()
    arrays["w"] = np.ones_like(arrays["w"])
    graph, _ = rewritten(between(128), arrays)
    assert not any(ops.is_sparse(node) for node in graph.graph)


@settings(max_examples=15, deadline=None)
@given(
    width=st.integers(16, 70),
    rows=st.integers(1, 50),
    tokens=st.integers(5, 140),
    batch=st.integers(1, 3),
)
def test_any_shape_is_computed_as_before(width: int, rows: int, tokens: int, batch: int) -> None:
    width -= width % 4
    proto = text_model(between("T", width, rows), weights(width, rows))
    graph, _ = regions_of(proto)
    x = np.random.default_rng(0).standard_normal((batch, tokens, width)).astype(np.float32)
    (want,) = outputs(proto.SerializeToString(), {"x": x})
    (got,) = outputs(ir.to_proto(graph).SerializeToString(), {"x": x})
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max(initial=1))
