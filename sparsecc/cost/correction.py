"""What measurements say of the roofline: a factor for each call, and how far to trust it.

Learned is ``log(t / t_roofline)`` per family of kernels, so that what the roofline already knows
(sizes over several decades) need not be learned again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pydantic

from sparsecc.cost.families import Call, base_ms
from sparsecc.cost.trees import Ensemble, Floats, Size, fit
from sparsecc.targets import Target

FOLDS = 3
LEAST_SPREAD, MOST_SPREAD = 0.01, 1.0
LEAST_SAMPLES = 20
_SIGMA_OF_MEAN = math.sqrt(math.pi / 2)
"""Standard deviation of a normal error over its mean absolute value."""
_FACTOR = Size(trees=160, leaves=14, rate=0.12)
_SPREAD = Size(trees=25, leaves=4, rate=0.1)


class Correction(pydantic.BaseModel):
    """Of one family of kernels.

    Attributes:
        factor: Tells the logarithm of time over roofline.
        spread: Tells the relative error of that, one sigma, of calls that were not learned from.
    """

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid")

    factor: Ensemble
    spread: Ensemble

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Correction:
        if {self.factor.features, self.spread.features} != {FEATURES}:
            raise ValueError(f"it does not look at {FEATURES} features")
        return self


def features(call: Call, target: Target) -> list[float]:
    """What a correction looks at: sizes on a log scale, how tiles are filled, the roofline."""
    work, (r, c) = call.work, call.block
    grid = math.ceil(work.rows / max(1, r)) * math.ceil(work.cols / max(1, c))
    depth = call.blocks / max(1, math.ceil(work.rows / max(1, r)))
    vectors = math.ceil(work.points / target.lanes)
    side = math.isqrt(work.points)
    stored = call.blocks * r * c or work.rows * work.cols
    return [
        math.log2(work.rows),
        math.log2(work.cols),
        math.log2(work.points),
        math.log2(work.input_elements),
        math.log2(work.cols * work.points / work.input_elements),  # window over stride, squared
        math.log2(max(depth, 1e-3)),
        call.blocks / grid,
        float(r),
        float(c),
        work.points / (vectors * target.lanes),
        float(vectors),
        side / (math.ceil(side / target.lanes) * target.lanes),
        float(work.rows % 8),
        float(work.rows % 30) / 30,
        math.log2(stored),
        math.log2(stored * work.points),
        math.log2(work.activation_bytes),
        math.log2(base_ms(call, target)),
        float(work.input_elements // work.groups % 2),  # depthwise: an odd side
    ]


FEATURES = 19


def matrix(calls: Sequence[Call], target: Target) -> Floats:
    """Features of calls, ``[n, FEATURES]``."""
    return np.array([features(call, target) for call in calls]).reshape(-1, FEATURES)


def learn(calls: Sequence[Call], ms: Sequence[float], target: Target) -> Correction:
    """The correction of a family from measured times, ms."""
    x = matrix(calls, target)
    y = np.log(np.array(ms) / [base_ms(call, target) for call in calls])
    fold = np.random.default_rng(0).permutation(len(y)) % FOLDS
    away = np.zeros(len(y))
    for held in range(FOLDS):
        known = fold != held
        away[~known] = y[~known] - fit(x[known], y[known], _FACTOR).predict(x[~known])
    return Correction(
        factor=fit(x, y, _FACTOR),
        spread=fit(x, np.abs(away) * _SIGMA_OF_MEAN, _SPREAD),
    )


def corrected(correction: Correction, call: Call, target: Target) -> tuple[float, float]:
    """Time of a call, ms, and its relative spread, one sigma."""
    x = matrix([call], target)
    factor, spread = correction.factor.predict(x)[0], correction.spread.predict(x)[0]
    return base_ms(call, target) * math.exp(factor), float(
        np.clip(spread, LEAST_SPREAD, MOST_SPREAD)
    )
