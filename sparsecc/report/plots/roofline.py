"""The roofline: how near each layer is predicted to come to what the hardware can do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsecc.report.document import Document, LayerEntry
from sparsecc.report.plots.axes import Axis
from sparsecc.report.words import number
from sparsecc.targets import Target

WIDTH, HEIGHT = 960, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 28, 26, 48
_LABEL = 0.06
"""Where along a line its label begins, as a share of it."""
_LEAST_RADIUS, _MOST_RADIUS = 3.0, 11.0


@dataclass(frozen=True)
class Dot:
    """A layer; see :class:`sparsecc.report.document.LayerEntry` for its kind."""

    x: float
    y: float
    radius: float
    kind: str
    tip: str


@dataclass(frozen=True)
class Roof:
    """A bandwidth: the line from `start` to the peak, as SVG's polyline takes it.

    Attributes:
        points: Corners of the line.
        label: What it is.
        x: Place where the label begins, on the line.
        y: Place where the label begins, on the line.
        angle: Turn of the label along the line, degrees clockwise.
    """

    points: str
    label: str
    x: float
    y: float
    angle: float


@dataclass(frozen=True)
class Roofline:
    """The plot.

    Attributes:
        x: Operations per byte.
        y: GFLOP/s.
        peak_y: Place of the peak.
        peak: The peak in words.
        roofs: The bandwidths that limit anything in the plot.
        dots: The layers, those of most time first, so that small ones lie on top.
    """

    x: Axis
    y: Axis
    peak_y: float
    peak: str
    roofs: tuple[Roof, ...]
    dots: tuple[Dot, ...]


def roofline(document: Document) -> Roofline | None:
    """The plot of a document's layers; None without a target or a layer that says its work."""
    target = document.target
    layers = [each for each in document.layers if each.row.moved_bytes and each.row.est_ms]
    layers = [each for each in layers if each.row.flops]
    if target is None or not layers:
        return None
    intensities, rates = [intensity(each) for each in layers], [gflops(each) for each in layers]
    peak = target.best_gflops
    ridge = peak / target.dram_gbs
    x = Axis(
        _decade(min(*intensities, 1.0)),
        _decade(max(*intensities, 2 * ridge), 1),
        LEFT,
        WIDTH - RIGHT,
        log=True,
    )
    y = Axis(
        _decade(min(*rates, peak / 100)), max(peak * 1.6, *rates), HEIGHT - BOTTOM, TOP, log=True
    )
    dots = [_dot(each, x, y) for each in sorted(layers, key=lambda each: -each.share)]
    below = [(label, gbs) for label, gbs in _bandwidths(target) if gbs * x.low < peak]
    roofs = [_roof(label, gbs, peak, x, y) for label, gbs in below]
    return Roofline(x, y, y(peak), f"peak {number(peak)} GFLOP/s", tuple(roofs), tuple(dots))


def intensity(layer: LayerEntry) -> float:
    """Operations that a layer does for each byte it moves."""
    return layer.row.flops / layer.row.moved_bytes


def gflops(layer: LayerEntry) -> float:
    """Operations per second that the estimate amounts to, 10⁹; skipped zeros do not count."""
    return layer.row.flops / layer.row.est_ms * 1e-6


def _bandwidths(target: Target) -> list[tuple[str, float]]:
    """What one core reads from each level, GB/s, the nearest first."""
    levels = [f"L{level}" for level in range(1, len(target.caches) + 1)]
    return list(zip([*levels, "memory"], target.bandwidths, strict=True))


def _roof(label: str, gbs: float, peak: float, x: Axis, y: Axis) -> Roof:
    left = max(x.low, y.low / gbs)
    ridge = min(peak / gbs, x.high)
    x1, y1, x2, y2 = x(left), y(left * gbs), x(ridge), y(ridge * gbs)
    angle = round(math.degrees(math.atan2(y2 - y1, x2 - x1)), 1)
    begin_x, begin_y = (round(a + (b - a) * _LABEL, 1) for a, b in ((x1, x2), (y1, y2)))
    return Roof(f"{x1},{y1} {x2},{y2}", f"{label}, {number(gbs)} GB/s", begin_x, begin_y, angle)


def _dot(layer: LayerEntry, x: Axis, y: Axis) -> Dot:
    radius = _LEAST_RADIUS + (_MOST_RADIUS - _LEAST_RADIUS) * math.sqrt(min(layer.share, 1.0))
    flops, rate = intensity(layer), gflops(layer)
    tip = (
        f"{layer.row.name}: {number(rate)} GFLOP/s at {number(flops)} FLOP/byte, "
        f"{layer.share:.1%} of the time"
    )
    return Dot(x(flops), y(rate), round(radius, 1), layer.kind, tip)


def _decade(value: float, up: int = 0) -> float:
    """The power of ten at or below a value, or `up` decades above that."""
    return 10.0 ** (math.floor(math.log10(value)) + up)


__all__ = ["Roofline", "gflops", "intensity", "roofline"]
