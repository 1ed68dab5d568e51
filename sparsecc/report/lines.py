"""What the lines of a report's table are: layers, layers alike drawn together, reasons as notes."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from sparsecc.report.rows import LayerRow

_LONG = 24
"""A table with more rows than this draws dense rows that are alike together."""
_ALIKE = 3
_PARTICULAR = re.compile(r"'[^']*'|\[[^]]*\]|\d+(\.\d+)?")


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        rows: The layers it stands for; several are dense, of one op, for one reason.
        note: Index of its reason among the notes; None when the layer runs sparse or as
            factors.
    """

    rows: tuple[LayerRow, ...]
    note: int | None

    @property
    def first(self) -> LayerRow:
        """The layer that gives the line its name."""
        return self.rows[0]

    @property
    def macs(self) -> int:
        """Multiply-adds of all its layers."""
        return sum(row.macs for row in self.rows)

    @property
    def density(self) -> float:
        """Share of weights that are not zero, over all its layers by their work."""
        weights = [max(row.macs, 1) for row in self.rows]
        total = sum(row.density * w for row, w in zip(self.rows, weights, strict=True))
        return total / sum(weights)

    @property
    def est_ms(self) -> float:
        """Estimated time of all its layers, ms."""
        return sum(row.est_ms for row in self.rows)


@dataclass(frozen=True)
class Note:
    """A reason to stay dense, and how many layers it holds for."""

    text: str
    layers: int

    @staticmethod
    def mark(index: int) -> str:
        """Letter that stands for the note in the table: a … z, aa, ab, …."""
        letters = string.ascii_lowercase
        high, low = divmod(index, len(letters))
        return (Note.mark(high - 1) if high else "") + letters[low]


def lay_out(rows: Sequence[LayerRow]) -> tuple[list[Line], list[Note]]:
    """Lines in the order of the model, and the notes they refer to.

    Reasons of one kind share a note, which shows the first of them, and says so where they differ.
    """
    reasons: dict[str, list[LayerRow]] = {}
    for row in rows:
        if row.stays_dense:
            reasons.setdefault(kind_of(row.why), []).append(row)
    index = {kind: i for i, kind in enumerate(reasons)}
    notes = [
        Note(_such_as(list(dict.fromkeys(row.why for row in alike))), len(alike))
        for alike in reasons.values()
    ]
    lines: list[Line] = []
    drawn: set[tuple[str, int]] = set()
    for row in rows:
        if not row.stays_dense:
            lines.append(Line((row,), None))
            continue
        note = index[kind_of(row.why)]
        alike = [other for other in reasons[kind_of(row.why)] if other.op == row.op]
        if len(rows) <= _LONG or len(alike) < _ALIKE:
            lines.append(Line((row,), note))
        elif (row.op, note) not in drawn:
            drawn.add((row.op, note))
            lines.append(Line(tuple(alike), note))
    return lines, notes


def _such_as(reasons: Sequence[str]) -> str:
    return reasons[0] if len(reasons) == 1 else f"such as: {reasons[0]}"


def kind_of(reason: str) -> str:
    """A reason without what differs from node to node: names, shapes, numbers."""
    return _PARTICULAR.sub("#", reason)


__all__ = ["Line", "Note", "kind_of", "lay_out"]
