"""Sensitivities against whole Jacobians, and what they say of pruning."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sparsecc.passes.weights.layers import find_layers
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.moments import MomentSum, Window
from sparsecc.quality.runner import Tap, stream
from tests import small

torch = pytest.importorskip("torch")

from sparsecc.errors import CalibrationError  # noqa: E402
from sparsecc.torch import Interpreter, fisher  # noqa: E402


def _calibration(batches: int, rows: int, scale: float = 1.0) -> Calibration:
    feeds = [{"x": scale * small.tokens(seed, rows)} for seed in range(batches)]
    return Calibration(tuple(feeds), ())


def _exact(model: ir.Model, calibration: Calibration, name: str) -> np.ndarray:
    """The mean over samples of the diagonal of JᵀJ, from the whole Jacobian."""
    interpreter = Interpreter(model)
    weight = interpreter.parameter(f"{name}.weight")
    total = torch.zeros(weight.shape, dtype=torch.float64)
    samples = 0
    for feed in calibration.train:
        whole = interpreter({"x": torch.from_numpy(feed["x"])})["y"]
        size = whole.detach().square().mean().sqrt()
        for row in torch.from_numpy(feed["x"]):
            y = interpreter({"x": row[None]})["y"].flatten()
            for each in y:
                (gradient,) = torch.autograd.grad(each, weight, retain_graph=True)
                total += (gradient / size).double().square()
            samples += 1
    return (total / samples).t().numpy()


def test_the_estimate_is_the_diagonal_of_gauss_newton() -> None:
    model, calibration = ir.from_proto(small.mlp("rows")), _calibration(1, 3)
    found = fisher(model, calibration, probes=400)
    for name in ("fc1", "fc2", "head"):
        exact = _exact(model, calibration, name)
        assert found[name].shape == exact.shape
        assert found[name].dtype == np.float64
        error = np.linalg.norm(found[name] - exact) / np.linalg.norm(exact)
        assert error < 0.15, name  # falls with the square root of the draws


def test_the_seed_says_it_all() -> None:
    model, calibration = ir.from_proto(small.mlp("rows")), _calibration(2, 8)
    once, again, other = (fisher(model, calibration, seed=seed) for seed in (1, 1, 2))
    for name, values in once.items():
        assert np.array_equal(values, again[name])
        assert not np.array_equal(values, other[name])
        assert (values >= 0).all()


def test_a_layer_that_reaches_no_output_by_gradient_costs_nothing() -> None:
    proto = small.mlp("rows")
    values = {each.name: each for each in proto.graph.initializer}
    values["head.weight"].raw_data = bytes(len(values["head.weight"].raw_data))
    found = fisher(ir.from_proto(proto), _calibration(1, 4))
    assert not found["fc1"].any()
    assert found["head"].any()


def test_gradients_that_are_not_finite_are_named() -> None:
    with pytest.raises(CalibrationError, match="not finite"):
        fisher(ir.from_proto(small.mlp("rows")), _calibration(1, 4, scale=1e38))


def test_moments_of_layer_inputs_equal_those_of_the_runner() -> None:
    """The interpreter sees what ONNX Runtime sees, at every layer of a CNN."""
    model = ir.from_proto(small.mobilenet())
    feeds = tuple({"image": small.image(seed)} for seed in range(2))
    interpreter = Interpreter(model)
    layers = find_layers(model).layers
    taps = [
        Tap(
            each.name,
            each.input,
            each.node,
            Window.of(each.node, each.kernel) if each.op == "Conv" else None,
        )
        for each in layers
    ]
    names = [tap.value.name or "" for tap in taps]
    with torch.no_grad():
        seen = [interpreter({"image": torch.from_numpy(f["image"])}, names) for f in feeds]
    for observed in stream(model, taps, Calibration(feeds, ())):
        ours = MomentSum(observed.tap.name, observed.tap.window, len(feeds))
        for values in seen:
            ours.add(values[observed.tap.value.name or ""].numpy())
        moments = ours.finish()
        assert moments is not None
        scale = np.abs(observed.train.h).max()
        np.testing.assert_allclose(moments.h, observed.train.h, atol=1e-4 * scale)
        np.testing.assert_allclose(moments.mean, observed.train.mean, atol=1e-4 * scale**0.5)
