"""Which kernel a layer gets, and the reason when it gets none."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sparsecc import targets
from sparsecc.cost.model import CostModel, Estimate
from sparsecc.cost.roofline import UNKNOWN_BATCH, UNKNOWN_SIDE, UNKNOWN_TOKENS, WORTHWHILE
from sparsecc.formats.patterns import Pattern, mask_from_scores
from sparsecc.passes.weights.choose import (
    BLOCKS,
    TIE,
    Choice,
    choose,
    kernel_name,
    node_bias,
    work_of,
)
from sparsecc.passes.weights.layers import find_layers
from sparsecc.report.rows import DENSE_KERNEL

TARGET = targets.get("x86-64-v4")
SIZE = 256


def zeros(rows: int, cols: int, pattern: str, sparsity: float) -> np.ndarray:
    weight = np.random.default_rng(0).standard_normal((rows, cols))
    mask = mask_from_scores(np.abs(weight), Pattern.parse(pattern), sparsity)
    return (weight * mask).astype(np.float32)


def layer_model(node, x_shape, y_shape, weights, dtype=TensorProto.FLOAT) -> ir.Model:
    extra = [name for name in node.input if name not in weights and name not in ("x", "")]
    infos = [helper.make_tensor_value_info("x", dtype, x_shape)]
    infos += [helper.make_tensor_value_info(name, dtype, [SIZE]) for name in extra]
    graph = helper.make_graph(
        [node],
        "g",
        infos,
        [helper.make_tensor_value_info("y", dtype, y_shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


def gemm(weight, *, tokens=64, bias=None, inputs=("x", "w"), **attributes) -> ir.Model:
    """A Gemm of ``weight[R, K]``."""
    node = helper.make_node("Gemm", list(inputs), ["y"], "fc", transB=1, **attributes)
    weights = {"w": weight} if bias is None else {"w": weight, "b": bias}
    dtype = helper.np_dtype_to_tensor_dtype(weight.dtype)
    return layer_model(node, [tokens, weight.shape[1]], [tokens, len(weight)], weights, dtype)


def conv(weight, *, groups=1, side=28, batch=1) -> ir.Model:
    """A 1×1 convolution of ``weight[R, K]``."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", kernel_shape=[1, 1], group=groups)
    oihw = weight.reshape(*weight.shape, 1, 1)
    x_shape = [batch, weight.shape[1] * groups, side, side]
    return layer_model(node, x_shape, [batch, len(weight), side, side], {"w": oihw})


def choice_of(model: ir.Model, target=TARGET) -> Choice:
    (layer,) = find_layers(model).layers
    return choose(layer, target)


SPARSE = zeros(SIZE, SIZE, "4x1", 0.9)
ONES = np.ones(SIZE, np.float32)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (gemm(np.ones((SIZE, SIZE), np.float32)), "no zeros"),
        (gemm(SPARSE, alpha=0.5), "alpha or beta"),
        (gemm(SPARSE, bias=ONES, inputs="xwb", beta=0.5), "alpha or beta"),
        (gemm(SPARSE, inputs="xwb"), "bias is not one constant per output"),
        (gemm(SPARSE, bias=np.ones((64, 1), np.float32), inputs="xwb"), "bias is not one constant"),
        (gemm(SPARSE, bias=np.ones((64, SIZE), np.float32), inputs="xwb"), "bias is not one"),
        (gemm(SPARSE.astype(np.float16)), "weights are float16: kernels are float32"),
        (gemm(SPARSE.astype(np.float64)), "weights are double: kernels are float32"),
    ],
)
def test_what_cannot_run_sparse_says_why(model: ir.Model, reason: str) -> None:
    choice = choice_of(model)
    assert choice.block is None
    assert reason in choice.row.why
    assert not choice.row.eligible
    assert choice.row.kernel == DENSE_KERNEL
    assert choice.row.est_ms == choice.row.dense_ms > 0


@pytest.mark.parametrize(
    "model",
    [
        gemm(SPARSE),
        gemm(SPARSE, alpha=1.0, beta=1.0),
        gemm(SPARSE, bias=ONES, inputs="xwb"),
        gemm(SPARSE, bias=np.array(2, np.float32), inputs="xwb"),
        gemm(SPARSE, bias=ONES[None], inputs="xwb"),
        conv(SPARSE),
    ],
)
def test_what_can_run_sparse_does(model: ir.Model) -> None:
    choice = choice_of(model)
    assert choice.block is not None
    assert choice.row.eligible
    assert choice.row.est_ms <= WORTHWHILE * choice.row.dense_ms
    assert "faster at density 0.10" in choice.row.why
    assert choice.row.kernel == kernel_name(choice.layer, choice.block, TARGET)


def test_what_would_not_pay_stays_dense_and_is_eligible() -> None:
    choice = choice_of(gemm(zeros(SIZE, SIZE, "unstructured", 0.05)))
    assert (choice.block, choice.row.kernel, choice.row.eligible) == (None, DENSE_KERNEL, True)
    assert "would not pay" in choice.row.why


@pytest.mark.parametrize("pattern", ["4x1", "8x1", "16x1", "1x8", "1x16"])
def test_the_block_is_that_of_the_zeros_or_one_that_fits_into_it(pattern: str) -> None:
    choice = choice_of(gemm(zeros(SIZE, SIZE, pattern, 0.9)))
    wanted = Pattern.parse(pattern)
    assert choice.row.pattern == pattern
    assert choice.block is not None
    assert all(side % own == 0 for side, own in zip(wanted.block, choice.block, strict=True))


@pytest.mark.parametrize("pattern", ["4x1", "16x1"])
def test_of_formats_as_quick_the_one_of_the_fewest_bytes_is_taken(
    pattern: str, monkeypatch
) -> None:
    (layer,) = find_layers(gemm(zeros(SIZE, SIZE, pattern, 0.5), tokens=128)).layers
    block = Pattern.parse(pattern).block
    same = Estimate(0.01, 0.1)
    monkeypatch.setattr(CostModel, "sparse", lambda *_, **__: same)
    assert choose(layer, TARGET).block == block
    quick = Estimate(0.01 / (1.02 * TIE), 0.1)
    monkeypatch.setattr(
        CostModel, "sparse", lambda _, work, block, blocks, **__: quick if block == (1, 1) else same
    )
    assert choose(layer, TARGET).block == (1, 1)


def test_a_tie_does_not_make_a_layer_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    (layer,) = find_layers(gemm(zeros(SIZE, SIZE, "4x1", 0.5), tokens=128)).layers
    times = {(1, 1): 0.96, (4, 1): 0.98}
    monkeypatch.setattr(CostModel, "dense", lambda *_: Estimate(1.0, 0.1))
    monkeypatch.setattr(
        CostModel, "sparse", lambda _, work, block, *__, **___: Estimate(times.get(block, 2.0), 0.1)
    )
    assert choose(layer, TARGET).block == (1, 1)


def test_all_zeros_run_sparse() -> None:
    choice = choice_of(gemm(np.zeros((SIZE, SIZE), np.float32)))
    assert choice.block is not None
    assert choice.row.density == 0


@given(
    groups=st.integers(2, 6),
    rows=st.sampled_from([16, 17, 18, 20, 24, 40]),
    name=st.sampled_from(["x86-64-v3", "x86-64-v4", "arm64-linux"]),
)
def test_blocks_never_straddle_groups(groups: int, rows: int, name: str) -> None:
    weight = zeros(groups * rows, 512, "unstructured", 0.97)
    slow = dataclasses.replace(targets.get(name), ghz=0.1)  # arithmetic is all that counts there
    choice = choice_of(conv(weight, groups=groups, side=56), slow)
    assert choice.block is not None
    assert rows % choice.block[0] == 0


def test_the_choice_depends_on_the_hardware() -> None:
    slow = dataclasses.replace(TARGET, ghz=TARGET.ghz / 10)
    fast, slower = (choice_of(gemm(SPARSE), target).row for target in (TARGET, slow))
    assert slower.dense_ms > 5 * fast.dense_ms


def test_the_work_is_that_of_the_shapes() -> None:
    (layer,) = find_layers(conv(SPARSE, side=7, batch=3)).layers
    work = work_of(layer)
    assert (work.rows, work.cols, work.points, work.groups) == (SIZE, SIZE, 3 * 49, 1)
    assert (work.input_elements, work.is_conv) == (3 * SIZE * 49, True)


def test_unknown_sizes_are_typical_ones() -> None:
    (layer,) = find_layers(conv(SPARSE, side="h", batch="n")).layers
    assert work_of(layer).points == UNKNOWN_BATCH * UNKNOWN_SIDE**2
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "fc")
    shapes = ["n", "t", SIZE], ["n", "t", SIZE]
    (layer,) = find_layers(layer_model(node, *shapes, {"w": SPARSE})).layers
    assert work_of(layer).points == UNKNOWN_BATCH * UNKNOWN_TOKENS
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "fc")
    (layer,) = find_layers(layer_model(node, None, None, {"w": SPARSE})).layers
    assert work_of(layer).points == UNKNOWN_TOKENS


def test_the_bias_is_float32_and_one_per_output() -> None:
    (layer,) = find_layers(gemm(SPARSE, bias=np.array(2, np.float32), inputs="xwb")).layers
    bias = node_bias(layer.node, layer.rows)
    assert bias is not None
    assert (bias.dtype, bias.shape) == (np.float32, (SIZE,))
    assert (bias == 2).all()


def test_every_block_has_a_name() -> None:
    (layer,) = find_layers(conv(SPARSE)).layers
    assert len({kernel_name(layer, block, TARGET) for block in BLOCKS}) == len(BLOCKS)
    assert kernel_name(layer, (4, 1), TARGET) == "conv-4x1"


def test_generated_code_is_named_where_there_is_some() -> None:
    (layer,) = find_layers(conv(SPARSE)).layers
    names = [kernel_name(layer, (1, 1), targets.get(name)) for name in ("x86-64-v4", "x86-64-v3")]
    assert names == ["conv-1x1-code", "conv-1x1"]
