"""Speed against quality: every plan that was weighed, and the one that was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsecc.report.document import Document
from sparsecc.report.plots.axes import Axis
from sparsecc.report.words import ms
from sparsecc.search.plan import PlanPoint

WIDTH, HEIGHT = 960, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 28, 22, 48
_DENSE = "dense"
_MARGIN = 1.08
_WORTH_SEEING = 4
"""Drops beyond this many times the budget are drawn at the edge: the choice was never there."""


@dataclass(frozen=True)
class Dot:
    """A plan.

    Attributes:
        x: Place.
        y: Place.
        kind: ``chosen``, ``dense``, ``front`` (none is both faster and better) or ``other``.
        label: Written beside it; "" for none.
        anchor: Side of the dot the label's text starts from, as SVG says it.
        tip: What it is, in words.
    """

    x: float
    y: float
    kind: str
    label: str
    anchor: str
    tip: str


@dataclass(frozen=True)
class Pareto:
    """The plot.

    Attributes:
        x: Predicted time of the model, ms.
        y: Drop of quality.
        dots: The plans, the chosen one last, so that it lies on top.
        front: Corners of the line under the best plans, as SVG's polyline takes them.
        limit_y: Place of the largest drop allowed, if that was limited.
        limit_x: Place of the longest time allowed, if that was limited.
        beyond: How many plans lose more than the plot shows.
    """

    x: Axis
    y: Axis
    dots: tuple[Dot, ...]
    front: str
    limit_y: float | None
    limit_x: float | None
    beyond: int


def pareto(document: Document) -> Pareto | None:
    """The plot of a document's points; None where nothing was searched."""
    points = document.points
    if not points:
        return None
    budget = document.budget
    most, longest = max(each.drop for each in points), max(each.predicted_ms for each in points)
    if budget is not None and budget.kind == "drop":
        kept = max((each.drop for each in points if each.chosen), default=0.0)
        most = max(budget.limit, kept, min(most, _WORTH_SEEING * budget.limit))
    if budget is not None and budget.kind == "ms":
        longest = max(longest, budget.limit)
    lowest = min(0.0, *(each.drop for each in points))
    x = Axis(0.0, longest * _MARGIN or 1.0, LEFT, WIDTH - RIGHT)
    y = Axis(lowest, max(most, lowest + 1e-3) * _MARGIN, HEIGHT - BOTTOM, TOP)
    best = front(points)
    dots = [_dot(point, x, y, on_front=point in best) for point in points]
    return Pareto(
        x=x,
        y=y,
        dots=tuple(sorted(dots, key=lambda dot: dot.kind == "chosen")),
        front=" ".join(
            f"{x(each.predicted_ms)},{y(each.drop)}" for each in best if each.drop <= y.high
        ),
        limit_y=y(budget.limit) if budget is not None and budget.kind == "drop" else None,
        limit_x=x(budget.limit) if budget is not None and budget.kind == "ms" else None,
        beyond=sum(each.drop > y.high for each in points),
    )


def front(points: Sequence[PlanPoint]) -> list[PlanPoint]:
    """The points that no other beats in time and drop, fastest first."""
    best: list[PlanPoint] = []
    for point in sorted(points, key=lambda point: (point.predicted_ms, point.drop)):
        if not best or point.drop < best[-1].drop:
            best.append(point)
    return best


def _dot(point: PlanPoint, x: Axis, y: Axis, *, on_front: bool) -> Dot:
    kind = "front" if on_front else "other"
    if point.name == _DENSE:
        kind = "dense"
    if point.chosen:
        kind = "chosen"
    place = x(point.predicted_ms)
    labelled = kind in ("chosen", "dense")
    return Dot(
        x=place,
        y=y(point.drop),
        kind=kind,
        label=("chosen: " if point.chosen else "") + point.name if labelled else "",
        anchor="end" if place > (LEFT + WIDTH - RIGHT) / 2 else "start",
        tip=f"{point.name}: {ms(point.predicted_ms)} ms, quality drop {point.drop:.2%}"
        + (" (chosen)" if point.chosen else ""),
    )


__all__ = ["Dot", "Pareto", "front", "pareto"]
