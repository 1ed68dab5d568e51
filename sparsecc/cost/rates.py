"""Times of what is no layer: so much for a call, and so much for each thing it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import numpy as np
import pydantic

Kind = Literal[
    "pool",
    "mean",
    "scale",
    "add",
    "activation",
    "layer_norm",
    "attention",
    "softmax",
    "to_t64",
    "from_t64",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
Time = Annotated[float, pydantic.Field(ge=0, le=1e3, allow_inf_nan=False)]


class Rate(pydantic.BaseModel):
    """Times of one kind of step.

    Attributes:
        call_ms: For a call.
        element_ns: For each element that it makes.
        mac_ns: For each multiply-add of an attention, or row of an image that is pooled.
        spread: Relative error, one sigma.
    """

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid")

    call_ms: Time
    element_ns: Time
    mac_ns: Time = 0.0
    spread: Annotated[float, pydantic.Field(ge=0, le=10)] = 0.1

    def ms(self, elements: float, macs: float = 0.0) -> float:
        """Time of a call, ms."""
        return self.call_ms + (self.element_ns * elements + self.mac_ns * macs) * 1e-6


Rates = dict[Kind, Rate]


def fit_rate(elements: Sequence[float], macs: Sequence[float], ms: Sequence[float]) -> Rate:
    """The rate that tells times best, by relative error, none of its parts negative."""
    from scipy.optimize import nnls

    times = np.array(ms)
    parts = np.stack([np.ones(len(times)), np.array(elements) * 1e-6, np.array(macs) * 1e-6], 1)
    (call, element, mac), _ = nnls(parts / times[:, None], np.ones(len(times)))
    away = parts @ (call, element, mac) / times - 1
    return Rate(
        call_ms=_rounded(call),
        element_ns=_rounded(element),
        mac_ns=_rounded(mac),
        spread=_rounded(float(np.sqrt(np.mean(away**2)))),
    )


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")
