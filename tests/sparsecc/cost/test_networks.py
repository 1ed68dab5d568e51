"""Networks that a calibration runs: valid, seeded, sparse, and none too large."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.cost.calibration import measured_network
from sparsecc.cost.networks import BLOCKS, NETWORKS, network
from sparsecc.inspection import inspect

MOST_BYTES = 128 << 20


@pytest.mark.parametrize("seed", range(NETWORKS))
def test_a_network_is_valid_seeded_and_sparse(seed: int) -> None:
    model = network(seed)
    onnx.checker.check_model(model, full_check=True)
    assert model.ByteSize() < MOST_BYTES
    if seed < len(BLOCKS):
        assert network(seed).SerializeToString() == model.SerializeToString()
    rows = [row for row in inspect(model, "x86-64-v4") if row.shape is not None]
    assert len(rows) > 3
    assert all(row.density < 0.5 for row in rows)


def test_another_seed_gives_another_and_every_kind_has_every_block() -> None:
    assert len({network(seed).SerializeToString() for seed in range(NETWORKS)}) == NETWORKS
    ops = [{node.op_type for node in network(seed).graph.node} for seed in range(3)]
    assert "MaxPool" in ops[0]
    assert "LayerNormalization" in ops[2]
    groups = [
        attribute.i
        for node in network(1).graph.node
        for attribute in node.attribute
        if attribute.name == "group"
    ]
    assert max(groups) > 1


@pytest.mark.parametrize("seed", range(3))
def test_its_output_is_finite_and_no_constant(seed: int) -> None:
    model = network(seed)
    sizes = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": np.random.default_rng(0).standard_normal(sizes).astype(np.float32)}
    (y,) = session_of_model(capture(model)).run(None, feeds)
    assert np.isfinite(y).all()
    assert np.std(y) > 1e-3
    weights = [numpy_helper.to_array(each) for each in model.graph.initializer]
    assert any((weight == 0).mean() > 0.5 for weight in weights if weight.ndim > 1)


def test_it_is_predicted_and_measured() -> None:
    parts, sums, took = measured_network(network(2), "native")
    assert parts > 0
    assert 0 < took < 1e3
    assert sums.calls > 3
