"""Times of what is no layer: so much for a call, and so much for each thing it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, get_args

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
    "streamed",
    "context",
]
"""Steps; and two that are none.

``streamed`` is what a chain saves against its layers one by one: for each value inside, for each
element of it that a depthwise layer reads, and each that another reads (as ``macs``). ``context``
is what a model takes besides its parts, which were measured with their inputs near: for each step,
for each element of values that half of the cache before the last cannot hold, wherever they are
read or made, and each weight that is machine code (as ``macs``).
"""
OF_STEPS = tuple(kind for kind in get_args(Kind) if kind not in ("streamed", "context"))
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST_SPREAD = 10.0
Time = Annotated[float, pydantic.Field(ge=0, le=1e3, allow_inf_nan=False)]


class Sums(NamedTuple):
    """What is counted of something that takes time."""

    calls: float
    elements: float
    macs: float = 0.0


NOTHING = Sums(0, 0)


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
    spread: Annotated[float, pydantic.Field(ge=0, le=MOST_SPREAD)] = 0.1

    def ms(self, sums: Sums) -> float:
        """Time of what was counted, ms."""
        each = (self.call_ms, self.element_ns * 1e-6, self.mac_ns * 1e-6)
        return sum(count * ms for count, ms in zip(sums, each, strict=True))


Rates = dict[Kind, Rate]


def fit_rate(
    counted: Sequence[Sums], ms: Sequence[float], of: Sequence[float] | None = None
) -> Rate:
    """The rate that tells times best, none of its parts negative.

    Args:
        counted: What was counted.
        ms: What it took.
        of: What errors are relative to; the times themselves without it.
    """
    from scipy.optimize import nnls

    whole = np.array(ms if of is None else of)
    parts = np.array(counted) * (1, 1e-6, 1e-6) / whole[:, None]
    wanted = np.array(ms) / whole
    (call, element, mac), _ = nnls(parts, wanted)
    away = parts @ (call, element, mac) - wanted
    return Rate(
        call_ms=_rounded(call),
        element_ns=_rounded(element),
        mac_ns=_rounded(mac),
        spread=_rounded(
            min(MOST_SPREAD, float(np.sqrt(np.mean(away**2)) / np.mean(np.abs(wanted))))
        ),
    )


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")
