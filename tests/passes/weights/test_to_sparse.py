"""Exact: packing the zeros of a layer, and unpacking them again, keeps the function."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from sparsecc import ops, targets
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.measure import max_rel_error, run_once
from sparsecc.passes.base import Context, run
from sparsecc.passes.verifier import verify_model
from sparsecc.passes.weights.layers import find_layers
from sparsecc.passes.weights.to_dense import ToDense
from sparsecc.passes.weights.to_sparse import ToSparse, replace_layer
from sparsecc.report.rows import DENSE_KERNEL
from tests import small

TARGET = targets.get("x86-64-v4")
BLOCKS = [(1, 1), (4, 1), (8, 1), (16, 1), (1, 4)]


def masked(rng: np.random.Generator, rows: int, cols: int, rows_per_block: int, density: float):
    keep = rng.random((-(-rows // rows_per_block), cols)) < density
    weight = rng.standard_normal((rows, cols)) * np.repeat(keep, rows_per_block, axis=0)[:rows]
    return weight.astype(np.float32)


def conv_model(rng, *, rows=32, depth=16, kernel=3, group=1, stride=1, side=12, density=0.2):
    weight = masked(rng, rows, kernel * kernel * depth, 4, density)
    oihw = np.ascontiguousarray(weight.reshape(rows, kernel, kernel, depth).transpose(0, 3, 1, 2))
    pad = kernel // 2
    out = (side + 2 * pad - kernel) // stride + 1
    node = helper.make_node(
        "Conv",
        ["x", "w", "b"],
        ["y"],
        "conv",
        strides=[stride] * 2,
        pads=[pad] * 4,
        dilations=[1, 1],
        group=group,
        kernel_shape=[kernel] * 2,
    )
    weights = {"w": oihw, "b": rng.standard_normal(rows).astype(np.float32)}
    return ir.from_proto(
        small.model(
            [node], {"x": [2, depth * group, side, side]}, {"y": [2, rows, out, out]}, weights
        )
    )


def matmul_model(rng, *, rows=64, cols=48, trans=True, with_bias=True, density=0.2):
    weight = masked(rng, rows, cols, 4, density)
    weights = {"w": weight if trans else np.ascontiguousarray(weight.T)}
    names = ["x", "w"]
    if with_bias:
        weights["b"] = rng.standard_normal(rows).astype(np.float32)
        names.append("b")
    node = helper.make_node("Gemm", names, ["y"], "fc", transB=int(trans))
    return ir.from_proto(small.model([node], {"x": [9, cols]}, {"y": [9, rows]}, weights))


def outputs_of(model: ir.Model, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    feeds = {
        str(value.name): rng.standard_normal([int(d) for d in value.shape]).astype(np.float32)
        for value in model.graph.inputs
    }
    return run_once(session_of_model(model), feeds)


def assert_packing_is_exact(model: ir.Model, block: tuple[int, int]) -> None:
    wanted = outputs_of(model)
    (layer,) = find_layers(model).layers
    node = replace_layer(layer, block)
    assert (node.name, ops.read_packed(node).block) == (layer.name, block)
    ops.attach_functions(model)
    verify_model(model)
    assert max_rel_error(outputs_of(model), wanted) < 1e-5
    run([ToDense()], model, Context(verify=True))
    assert not any(ops.is_sparse(node) for node in model.graph)
    assert max_rel_error(outputs_of(model), wanted) < 1e-5


@given(
    block=st.sampled_from(BLOCKS),
    group=st.sampled_from([1, 2]),
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    seed=st.integers(0, 50),
)
def test_convolutions_keep_their_function(block, group, kernel, stride, seed) -> None:
    rng = np.random.default_rng(seed)
    model = conv_model(rng, group=group, kernel=kernel, stride=stride)
    assert_packing_is_exact(model, block)


@given(
    block=st.sampled_from(BLOCKS),
    rows=st.integers(17, 70),
    trans=st.booleans(),
    with_bias=st.booleans(),
    seed=st.integers(0, 50),
)
def test_linear_layers_keep_their_function(block, rows, trans, with_bias, seed) -> None:
    rng = np.random.default_rng(seed)
    assert_packing_is_exact(matmul_model(rng, rows=rows, trans=trans, with_bias=with_bias), block)


def test_layers_that_pay_are_replaced_and_the_row_says_so() -> None:
    model = conv_model(np.random.default_rng(0), rows=256, depth=256, side=28, density=0.1)
    each = ToSparse(TARGET)
    assert run([each], model, Context(verify=True))
    (choice,) = each.choices
    assert choice.block in {(4, 1), (2, 1)}
    assert choice.row.eligible
    assert choice.row.est_ms < choice.row.dense_ms
    assert "faster" in choice.row.why
    assert model.graph.node(0).op_type == "SparseConv"


@pytest.mark.parametrize(("density", "reason"), [(1.0, "no zeros"), (0.98, "would not pay")])
def test_layers_that_do_not_pay_stay_dense_with_the_reason(density: float, reason: str) -> None:
    model = conv_model(np.random.default_rng(0), density=density)
    each, ctx = ToSparse(TARGET), Context(verify=True)
    assert not run([each], model, ctx)
    assert model.graph.node(0).op_type == "Conv"
    assert reason in each.choices[0].row.why
    assert reason in ctx.refusals[0].reason
    assert each.choices[0].row.kernel == DENSE_KERNEL


def test_blocks_never_straddle_groups() -> None:
    model = conv_model(np.random.default_rng(0), rows=36, group=3, depth=32, density=0.1)
    each = ToSparse(TARGET)
    run([each], model, Context())
    block = each.choices[0].block
    assert block is None or 12 % block[0] == 0


def test_a_scaled_gemm_is_left_alone() -> None:
    model = matmul_model(np.random.default_rng(0))
    node = model.graph.node(0)
    node.attributes.add(ir.AttrFloat32("alpha", 0.5))
    each = ToSparse(TARGET)
    assert not run([each], model, Context())
    assert "alpha" in each.choices[0].row.why
