"""``compile(..., quantize="int8")`` from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import sparsecc
from sparsecc.errors import CalibrationError, PlanError
from sparsecc.inspection import inspect
from sparsecc.ops import int8
from tests import small


def test_a_float_model_becomes_eight_bit_and_smaller() -> None:
    proto = small.mobilenet("4x4:0.5")
    images = np.concatenate([small.image(seed) for seed in range(8)])
    made = sparsecc.compile(proto, calibration={"image": images}, quantize="int8", verify=True)
    want = onnxruntime.InferenceSession(proto.SerializeToString()).run(
        None, {"image": small.image(99)}
    )[0]
    got = made(image=small.image(99))
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.9
    assert len(np.unique(got)) <= 256 < got.size
    model = Path(made.path, "model.onnx")
    assert model.stat().st_size < 0.4 * proto.ByteSize()
    ops = {node.op_type for node in onnx.load(model).graph.node if node.domain == int8.DOMAIN}
    regions = any(node.op_type.startswith("Region") for node in onnx.load(model).graph.node)
    assert regions or ops == {"Conv", "Depthwise", "Mean"}


def test_the_report_says_what_is_eight_bit_and_what_is_not() -> None:
    proto = small.mobilenet("4x4:0.5")
    made = sparsecc.compile(proto, calibration={"image": small.image(0, 8)}, quantize="int8")
    rows = {row.name: row for row in made.report.rows}
    assert {row.kernel for row in rows.values()} == {"int8-conv", "int8-depthwise"}
    assert rows["stem"].pattern == "dense"
    assert rows["block1.depthwise"].kernel == "int8-depthwise"
    pruned = rows["block5.pointwise"]
    assert pruned.pattern == "4x4"
    assert pruned.density == pytest.approx(0.5, abs=0.02)
    assert "50%" in pruned.why
    assert 0 < pruned.est_ms < pruned.dense_ms
    assert made.plan.layers
    again = inspect(made.path)
    assert [row.kernel for row in again] == [row.kernel for row in made.report.rows]


def test_pruning_and_eight_bits_go_together() -> None:
    proto = small.mobilenet()
    data = {"image": small.image(0, 8)}
    made = sparsecc.compile(proto, sparsity="4x4:0.5", calibration=data, quantize="int8")
    pruned = [row for row in made.report.rows if row.pattern == "4x4"]
    assert len(pruned) > 8
    assert all(row.density < 0.55 for row in pruned)
    assert made.manifest.numerics["max_rel_error"] < 0.02


def test_int8_without_data_is_told_the_way_out() -> None:
    with pytest.raises(CalibrationError, match="calibration") as refused:
        sparsecc.compile(small.mobilenet(), quantize="int8")
    assert refused.value.fix


def test_another_quantization_is_told_what_there_is() -> None:
    with pytest.raises(PlanError, match="int4") as refused:
        sparsecc.compile(small.mobilenet(), quantize="int4")
    assert "int8" in (refused.value.fix or "")
