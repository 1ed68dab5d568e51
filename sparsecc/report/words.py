"""Numbers written short and names made safe, for people to read."""

from __future__ import annotations

import math
from typing import Any

from sparsecc.targets.cuda import named_arch

_PREFIXES = "kMGT"


def ms(value: float) -> str:
    """A time in ms, to the µs at most: 0.012, 1.23, 12.3, 123."""
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def count(value: float) -> str:
    """A count with a decimal prefix: 999, 1.2k, 118M."""
    if value < 999.5:
        return f"{value:.0f}"
    for prefix in _PREFIXES:
        value /= 1000
        if value < 999.5 or prefix == _PREFIXES[-1]:
            break
    return f"{value:.0f}{prefix}" if value >= 99.5 else f"{value:.1f}{prefix}"


def size(value: int) -> str:
    """Bytes with a decimal prefix: 512 B, 3.4 MB."""
    text = count(value)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def number(value: float) -> str:
    """A measured number to four digits."""
    return f"{value:.4g}"


def printable(text: str) -> str:
    """A text on one line without control codes: names in a model may hold any."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def finite(value: Any) -> Any:
    """The same plain data with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["count", "finite", "ms", "number", "printable", "size"]


def estimated_on(target: str) -> str:
    """What times of a target of that name are of."""
    return "a GPU" if named_arch(target) else "one thread"
