"""Axes: from values to places in a drawing, and the values worth a line."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """One axis of a plot.

    Attributes:
        low: Value at `start`.
        high: Value at `stop`.
        start: Place of the least value, in units of the drawing.
        stop: Place of the greatest.
        log: Whether decades have equal lengths; then both values are above 0.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Place of a value; those off the axis are put at its ends."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        if self.log:
            value = max(value, self.low)
        share = (self._scaled(value) - low) / (high - low) if high > low else 0.5
        return round(self.start + min(max(share, 0.0), 1.0) * (self.stop - self.start), 1)

    def ticks(self) -> list[float]:
        """Round values on it: decades, or about five steps of 1, 2 or 5."""
        if self.log:
            first, last = math.ceil(_log(self.low)), math.floor(_log(self.high))
            return [10.0**power for power in range(first, last + 1)]
        step = round_step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [step * count for count in range(first, last + 1)]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value


def round_step(span: float, most: int = 5) -> float:
    """The least step of the form 1, 2 or 5 × 10ⁿ that needs at most `most` steps for a span."""
    if span <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(power * digit for digit in (1, 2, 5, 10) if span <= most * power * digit * 1.000001)


def _log(value: float) -> float:
    """Rounded, so that 1000 is its own decade whatever the last bit says."""
    return round(math.log10(value), 9)


__all__ = ["Axis", "round_step"]
