"""How much work a recovery may be: so long, or so many steps."""

from __future__ import annotations

import dataclasses
import re

from sparsecc.errors import PlanError

_SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_MOST_SECONDS, _MOST_STEPS = 7 * 24 * 3600.0, 10_000_000
_FIX = "write a time such as 90s, 10min or 1.5h, or a number of steps such as '400 steps'"


@dataclasses.dataclass(frozen=True)
class Effort:
    """A bound on training: exactly one of the two.

    Attributes:
        seconds: About so long; how many steps that is depends on the machine.
        steps: So many steps of the optimiser, wherever it runs.
    """

    seconds: float | None = None
    steps: int | None = None

    @classmethod
    def parse(cls, text: str) -> Effort:
        """Read ``10min``, ``90s``, ``1.5h`` or ``400 steps``.

        Raises:
            PlanError: It is none of these, or no positive amount.
        """
        match = re.fullmatch(r"(\d*\.?\d+)\s*([a-z]+)", text.strip().lower())
        number, unit = (float(match[1]), match[2]) if match else (0.0, "")
        if unit in _SECONDS and 0 < number * _SECONDS[unit] <= _MOST_SECONDS:
            return cls(seconds=number * _SECONDS[unit])
        if unit in ("step", "steps") and 1 <= number <= _MOST_STEPS and number.is_integer():
            return cls(steps=int(number))
        raise PlanError(f"{text!r} is not an effort", fix=_FIX)

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps is not None else f"{self.seconds:g}s"
