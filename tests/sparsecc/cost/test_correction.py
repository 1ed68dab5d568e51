"""Corrections: a law beside the roofline is learned, and how well it is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparsecc.backends.kernels.measured import rows_of
from sparsecc.cost.correction import FEATURES, LEAST_SPREAD, Correction, corrected, features, learn
from sparsecc.cost.families import Call, base_ms
from sparsecc.cost.shapes import shapes
from sparsecc.targets import TARGETS

V4 = TARGETS["x86-64-v4"]
ROW = next(row for row in rows_of(V4) if row.name.startswith("f32-matmul-4x1"))


def calls(count: int, salt: str = "") -> list[Call]:
    return [shape.call for shape in shapes(ROW, V4, count, salt)]


def law(call: Call, noise: float, rng: np.random.Generator) -> float:
    """Deep products take twice as long as the roofline says, wide ones less."""
    slow = 2.0 if call.work.cols > 512 else 1.0
    wide = 0.8 if call.work.rows > 256 else 1.1
    return base_ms(call, V4) * slow * wide * math.exp(rng.normal(0, noise))


def learned(noise: float) -> Correction:
    rng = np.random.default_rng(0)
    known = calls(400)
    return learn(known, [law(call, noise, rng) for call in known], V4)


@pytest.fixture(scope="module")
def exact() -> Correction:
    return learned(0.0)


@pytest.fixture(scope="module")
def noisy() -> Correction:
    return learned(0.3)


def test_a_law_beside_the_roofline_is_learned(exact: Correction) -> None:
    rng = np.random.default_rng(1)
    others = calls(100, "held out")
    away = [abs(corrected(exact, call, V4)[0] / law(call, 0.0, rng) - 1) for call in others]
    base = [abs(base_ms(call, V4) / law(call, 0.0, rng) - 1) for call in others]
    assert np.mean(away) < 0.05 < 0.25 < np.mean(base)


def test_the_spread_is_that_of_the_noise(exact: Correction, noisy: Correction) -> None:
    others = calls(100, "held out")
    sure = np.mean([corrected(exact, call, V4)[1] for call in others])
    unsure = np.mean([corrected(noisy, call, V4)[1] for call in others])
    assert LEAST_SPREAD * 0.999 <= sure < 0.1
    assert 0.2 < unsure < 0.5


def test_features_are_finite_for_every_row_and_target() -> None:
    for target in (V4, TARGETS["x86-64-v3"]):
        for row in rows_of(target):
            for shape in shapes(row, target, 5):
                found = features(shape.call, target)
                assert len(found) == FEATURES
                assert np.isfinite(found).all()
