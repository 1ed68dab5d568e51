"""Numbers written short, for people."""

from __future__ import annotations

_DECIMAL = ("", "k", "M", "G", "T")


def ms(value: float) -> str:
    """A time in ms to three digits, never in powers of ten: 0.0123, 1.23, 123."""
    if value >= 100:
        return f"{value:.0f}"
    if value >= 1:
        return f"{value:.3g}"
    return f"{value:.3f}"


def count(value: float) -> str:
    """A count with a decimal prefix: 999, 1.2k, 118M."""
    for prefix in _DECIMAL[:-1]:
        if value < 999.5:
            return f"{value:.0f}" if not prefix or value >= 99.5 else f"{value:.1f}{prefix}"
        value /= 1000
    return f"{value:.1f}{_DECIMAL[-1]}"


def size(value: int) -> str:
    """Bytes with a decimal prefix: 512 B, 3.4 MB."""
    text = count(value)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def number(value: float) -> str:
    """A measured number to four digits."""
    return f"{value:.4g}"


__all__ = ["count", "ms", "number", "size"]
