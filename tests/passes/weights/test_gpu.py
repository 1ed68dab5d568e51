"""What is chosen for layers on GPUs: forms that kernels have, where they pay, or the reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc import targets
from sparsecc.capture import capture
from sparsecc.inspection import inspect
from sparsecc.passes.weights.candidates import offer
from sparsecc.passes.weights.choose import work_of
from sparsecc.passes.weights.layers import find_layers
from sparsecc.targets import TARGETS

ROWS, COLS = 1024, 512


@pytest.fixture(params=[name for name, target in TARGETS.items() if target.family == "cuda"])
def gpu(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A GPU with slow memory, so that small layers are worth skipping weights of."""
    slow = (1000.0, 500.0, 20.0)
    target = dataclasses.replace(
        TARGETS[request.param], name=f"slow-{request.param[5:]}", bandwidths=slow
    )
    path = tmp_path / "slow.json"
    path.write_text(target.to_json())
    return str(path)


def product(tokens: int, zeros: float, height: int = 1) -> onnx.ModelProto:
    """One linear layer with random zeros in blocks of outputs."""
    draws = np.random.default_rng(0)
    weight = draws.standard_normal((COLS, ROWS), np.float32)
    weight *= (draws.random((COLS, ROWS // height)) >= zeros).repeat(height, 1)
    return model_of(
        helper.make_node("MatMul", ["x", "w"], ["y"], "fc"), weight, [tokens, COLS], [tokens, ROWS]
    )


def conv() -> onnx.ModelProto:
    draws = np.random.default_rng(0)
    weight = draws.standard_normal((64, 64, 3, 3), np.float32) * (
        draws.random((64, 64, 3, 3)) > 0.9
    )
    return model_of(
        helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1]),
        weight,
        [1, 64, 56, 56],
        [1, 64, 56, 56],
    )


def model_of(node, weight, into, out) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, into)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("height", "form"), [(16, "columns"), (64, "columns"), (1, "bitmap")])
def test_a_form_runs_a_layer_of_few_tokens(gpu: str, height: int, form: str) -> None:
    (row,) = inspect(product(8, 0.9, height), gpu)
    assert row.kernel == form
    assert row.est_ms < row.dense_ms
    assert "faster" in row.why


def test_where_it_does_not_pay_it_stays_dense_and_says_so(gpu: str) -> None:
    (row,) = inspect(product(16384, 0.5), gpu)
    assert row.kernel == "tvm"
    assert row.est_ms == row.dense_ms
    assert "would not pay: estimated" in row.why


@pytest.mark.parametrize("name", ["cuda-sm_80", "cuda-sm_90"])
def test_no_layer_is_above_the_roofs_of_a_report(name: str) -> None:
    (row,) = inspect(product(16384, 0.0), name)
    target = TARGETS[name]
    assert 0.1 < row.flops / row.est_ms * 1e-6 / target.best_gflops < 1
    assert row.moved_bytes == 2 * (ROWS * COLS + 16384 * (ROWS + COLS))


def test_convolutions_stay_dense_and_say_why(gpu: str) -> None:
    (row,) = inspect(conv(), gpu)
    assert row.kernel == "tvm"
    assert row.why == "GPUs have no sparse kernel for convolutions"


def test_only_what_kernels_have_is_offered_to_a_search(gpu: str) -> None:
    target = targets.read(gpu)
    (layer,) = find_layers(capture(product(8, 0.0))).layers
    layer = dataclasses.replace(layer, keep_dense="")
    found = offer(layer, target, "thorough", "alps")
    patterns = {str(each.choice.pattern) for each in found[1:] if not each.choice.structure}
    assert patterns == {"16x1", "64x1", "unstructured", "2:4"}
    assert all(each.ms < found[0].ms for each in found[1:])
    (image,) = find_layers(capture(conv())).layers
    assert len(offer(dataclasses.replace(image, keep_dense=""), target, "thorough", "alps")) == 1
    assert work_of(image).is_conv


def test_another_target_is_offered_what_it_was() -> None:
    (layer,) = find_layers(capture(product(64, 0.0))).layers
    layer = dataclasses.replace(layer, keep_dense="")
    found = offer(layer, TARGETS["x86-64-v4"], "fast", "alps")
    assert {str(each.choice.pattern) for each in found[1:]} >= {"4x1", "unstructured"}
