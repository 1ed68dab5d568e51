"""Whole models against ONNX Runtime: as captured, in canonical form, and with sparse ops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from sparsecc.capture import capture
from sparsecc.measure import rounded
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights.layers import find_layers
from tests import small
from tests.end_to_end.zoo import ZOO, missing_package
from tests.passes.weights.prepared import with_sparse

torch = pytest.importorskip("torch")

from sparsecc.torch import Interpreter, fast_products  # noqa: E402
from sparsecc.torch.layers import weight_name  # noqa: E402
from tests.sparsecc.torch import node_cases  # noqa: E402

TOLERANCE = 1e-4
"""Of the largest output; sums of thousands of single-precision products."""


def _canonical(model: ir.Model) -> ir.Model:
    run(pipeline.EXACT_BEFORE, model, Context())
    return model


def _distance(model: ir.Model, feeds: dict[str, Any]) -> float:
    """Largest difference to ONNX Runtime, as a share of the largest output above 1."""
    session = node_cases.runtime(ir.to_proto(model))
    assert session is not None
    expected = session.run(None, feeds)
    with torch.no_grad():
        got = Interpreter(model)({name: torch.from_numpy(x) for name, x in feeds.items()})
    assert list(got) == [output.name for output in session.get_outputs()]
    return max(
        rounded(np.abs(ours.numpy() - theirs).max() / max(1.0, np.abs(theirs).max()))
        for ours, theirs in zip(got.values(), expected, strict=True)
    )


@pytest.mark.parametrize("name", sorted(ZOO))
def test_models_of_every_kind_equal_onnx_runtime(name: str, tmp_path: Path) -> None:
    if (package := missing_package(name)) is not None:
        pytest.skip(f"{package} is not installed")
    case = ZOO[name](tmp_path)
    inputs = case.feeds
    model = capture(case.model, {n: torch.from_numpy(x) for n, x in inputs.items()})
    # an eight-bit activation on the edge between two numbers may fall on either side
    tolerance = 0.05 if name == "quantised" else TOLERANCE
    assert _distance(model, inputs) < tolerance
    canonical = _canonical(model)
    assert _distance(canonical, inputs) < tolerance
    _check_gradients(canonical, inputs)


def _check_gradients(model: ir.Model, feeds: dict[str, Any]) -> None:
    """Every layer that can be pruned gets a finite gradient that is not all zero."""
    layers = [] if _has(model, "QuantizeLinear") else find_layers(model).layers
    interpreter = Interpreter(model)
    outputs = interpreter({name: torch.from_numpy(x) for name, x in feeds.items()})
    if not layers:
        return
    sum(y.square().sum() for y in outputs.values()).backward()
    for layer in layers:
        gradient = interpreter.parameter(weight_name(layer)).grad
        assert gradient is not None, layer.name
        assert torch.isfinite(gradient).all(), layer.name
        assert gradient.any(), layer.name


def _has(model: ir.Model, op_type: str) -> bool:
    return any(node.op_type == op_type for node in model.graph)


def test_sparse_ops_are_their_bodies_with_packed_weights_as_parameters() -> None:
    model, _ = with_sparse(small.mlp(), "fc1", "fc2")
    dense = _canonical(capture(small.mlp()))
    feed = {"x": torch.from_numpy(small.tokens(0))}
    interpreter = Interpreter(model)
    got = interpreter(feed)["y"]
    torch.testing.assert_close(got, Interpreter(dense)(feed)["y"], atol=1e-5, rtol=1e-4)
    got.square().sum().backward()
    values = [p for name, p in interpreter.weights.items() if "values" in name]
    assert len(values) == 2
    assert all(each.grad is not None and each.grad.any() for each in values)


def test_fast_products_are_as_right_and_end_with_the_block() -> None:
    interpreter = Interpreter(ir.from_proto(small.mlp()))
    feed = {"x": torch.from_numpy(small.tokens(0))}
    before = torch.backends.mkldnn.matmul.fp32_precision
    with torch.no_grad():
        exact = interpreter(feed)["y"]
        with fast_products():
            assert torch.backends.mkldnn.matmul.fp32_precision != before
            fast = interpreter(feed)["y"]
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    torch.testing.assert_close(fast, exact, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("name", ["minilm", "ocr_recognizer", "ocr_detector", "vit", "resnet18"])
def test_sizes_are_known_without_looking_at_the_device(name: str, tmp_path: Path) -> None:
    """On torch's "meta" device no element can be read, and none meets one of the host's memory."""
    if (package := missing_package(name)) is not None:
        pytest.skip(f"{package} is not installed")
    case = ZOO[name](tmp_path)
    feed = {n: torch.from_numpy(x) for n, x in case.feeds.items()}
    model = _canonical(capture(case.model, feed))
    expected = Interpreter(model)(feed)
    meta = Interpreter(model, device="meta")
    got = meta({n: x.to("meta") for n, x in feed.items()})
    for ours, theirs in zip(got.values(), expected.values(), strict=True):
        assert ours.device.type == "meta"
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    sum(y.sum() for y in got.values()).backward()
    assert all(p.grad is not None for p in meta.parameters())
