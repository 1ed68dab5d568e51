"""What the fields of a plan may hold; a plan is data of others, so every one is bounded."""

from __future__ import annotations

from typing import Annotated

import pydantic

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


class Strict(pydantic.BaseModel):
    """A part of a plan: exactly these fields, of exactly these types."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid")


__all__ = ["Count", "Number", "Share", "Strict", "Text", "Unit"]
