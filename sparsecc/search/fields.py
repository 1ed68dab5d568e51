"""What the fields of a plan may hold; a plan is data of others, so every one is bounded."""

from __future__ import annotations

from typing import Annotated

import pydantic

from sparsecc.errors import PlanError

_DIGITS = 6


def _significant(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


Text = Annotated[str, pydantic.Field(max_length=4096)]
Number = Annotated[
    float, pydantic.Field(allow_inf_nan=False), pydantic.PlainSerializer(_significant)
]
Share = Annotated[Number, pydantic.Field(ge=0, le=1)]
Count = Annotated[int, pydantic.Field(ge=1, lt=2**31)]
Unit = Annotated[int, pydantic.Field(ge=0, lt=2**31)]


AUTO = "auto"
"""A share that is searched for within a budget."""


def read_share(spec: str, of: str) -> float | None:
    """A share above 0, None for :data:`AUTO`.

    Args:
        spec: As the user wrote it: ``0.25``, ``25%``, ``auto``.
        of: What it is a share of.

    Raises:
        PlanError: It is neither.
    """
    if spec == AUTO:
        return None
    try:
        share = float(spec[:-1]) / 100 if spec.endswith("%") else float(spec)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise PlanError(
            f"no share of the {of}: {spec!r}",
            fix="give the share that stays, such as 0.25, or auto with max_drop",
        )
    return share


class Strict(pydantic.BaseModel):
    """A part of a plan: exactly these fields, of exactly these types."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid")


__all__ = ["AUTO", "Count", "Number", "Share", "Strict", "Text", "Unit", "read_share"]
