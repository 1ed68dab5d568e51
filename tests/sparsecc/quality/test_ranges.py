"""Ranges of activations."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from sparsecc.capture import capture
from sparsecc.errors import CalibrationError
from sparsecc.quality.calibration import load_calibration
from sparsecc.quality.ranges import value_ranges
from tests import small


def test_a_range_is_over_all_training_batches_and_has_zero() -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["e"], "exp"),
        helper.make_node("Neg", ["e"], ["y"], "neg"),
    ]
    model = capture(small.model(nodes, {"x": ["n", 3]}, {"y": ["n", 3]}, {}))
    x = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    data = load_calibration({"x": x}, model)
    found = value_ranges(model, ["x", "e", "y"], data)
    seen = np.concatenate([feed["x"] for feed in data.train])
    assert found["x"] == (seen.min(), seen.max())
    assert found["e"] == pytest.approx((0.0, np.exp(seen).max()))
    assert found["y"] == pytest.approx((-np.exp(seen).max(), 0.0))
    assert [node.op_type for node in model.graph] == ["Exp", "Neg"]


def test_what_is_no_number_is_told_with_its_name() -> None:
    nodes = [helper.make_node("Log", ["x"], ["y"], "log")]
    model = capture(small.model(nodes, {"x": ["n", 3]}, {"y": ["n", 3]}, {}))
    data = load_calibration({"x": -np.ones((4, 3), np.float32)}, model)
    with pytest.raises(CalibrationError, match="y") as refused:
        value_ranges(model, ["y"], data)
    assert refused.value.fix
