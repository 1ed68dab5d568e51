"""Sensitivity: what every option would cost every layer in accuracy."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from sparsecc.report.document import Document, OptionEntry

WIDTH, LEFT, TOP = 960, 124, 4
ROW, GAP, BETWEEN = 18, 2, 6
"""Height of a row, the gap in it, and the gap between patterns."""
_WIDEST = 44.0
LEVELS = 8
"""Shades of the scale, from the smallest loss to the largest."""


@dataclass(frozen=True)
class Cell:
    """One option of one layer.

    Attributes:
        x: Place of its left side.
        level: Shade, 0 to :data:`LEVELS` - 1; None when its loss was not measured.
        chosen: Whether the layer got it.
        layer: Index of the layer among those that have options.
        loss: The loss in short; "–" when not measured.
    """

    x: float
    level: int | None
    chosen: bool
    layer: int
    loss: str


@dataclass(frozen=True)
class Row:
    """One option over all layers that had it."""

    label: str
    y: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Heatmap:
    """The map: options from top to bottom, layers from left to right in the order of the model.

    Attributes:
        rows: One per option, denser ones first.
        cell: Width of a cell, without the gap.
        right: Where the last layer ends.
        height: Of the drawing.
        least: Loss of the lightest shade.
        most: Loss of the darkest.
    """

    rows: tuple[Row, ...]
    cell: float
    right: int
    height: int
    least: float
    most: float


def heatmap(document: Document) -> Heatmap | None:
    """The map of a document; None where no layer had options."""
    layers = [layer for layer in document.layers if layer.options]
    if not layers:
        return None
    every = [option for layer in layers for option in layer.options]
    losses = [option.loss for option in every if option.loss]
    least, most = min(losses, default=0.0), max(losses, default=0.0)
    pitch = min(_WIDEST, (WIDTH - LEFT) / len(layers))
    cells: dict[str, list[Cell]] = {label: [] for label in _labels(every)}
    for at, layer in enumerate(layers):
        for option in layer.options:
            level = None if option.loss is None else shade(option.loss, least, most)
            loss = "–" if option.loss is None else f"{option.loss:.3g}"
            x = round(LEFT + at * pitch, 1)
            cells[option.choice].append(Cell(x, level, option.chosen, at, loss))
    rows, y, above = [], TOP, ""
    for label, those in cells.items():
        pattern = label.partition(":")[0]
        y += BETWEEN if above and pattern != above else 0
        rows.append(Row(label, y, tuple(those)))
        y, above = y + ROW, pattern
    gap = GAP if pitch > 3 * GAP else 0
    right = round(LEFT + pitch * len(layers) - gap)
    return Heatmap(tuple(rows), round(pitch - gap, 1), right, y + 30, least, most)


def _labels(options: list[OptionEntry]) -> list[str]:
    """Choices of all layers: dense first, then by pattern or structure, sizes and zeros."""
    return sorted({option.choice for option in options}, key=_order)


def _order(choice: str) -> tuple[bool, list[float], str, list[float]]:
    kind, _, rest = choice.partition(":")
    return choice != "dense", _numbers(kind), kind, _numbers(rest)  # 4x1 before 16x1


def _numbers(text: str) -> list[float]:
    return [float(digits) for digits in re.findall(r"\d+(?:\.\d+)?", text)]


def shade(loss: float, least: float, most: float) -> int:
    """Shade of a loss on a scale of equal factors."""
    if loss <= least:
        return 0
    if not most > least > 0:
        return LEVELS - 1
    share = math.log(loss / least) / math.log(most / least)
    return min(LEVELS - 1, int(share * LEVELS))


__all__ = ["LEVELS", "Cell", "Heatmap", "Row", "heatmap", "shade"]
