"""A report drawn on a terminal, 80 columns and up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sparsecc.report.lines import Line, Note, lay_out
from sparsecc.report.words import count, estimated_on, ms, number, printable, size

if TYPE_CHECKING:
    from rich.console import JustifyMethod

    from sparsecc.report.report import Report

_BAR_CELLS = 6
_GAP = 2  # between columns: the padding, and the blank that the box draws there
_NARROWEST_NAME = 12
_LONGEST_WORD = 18  # of an op or a kernel
_SHORTEST_WORD = 3
_WORD = re.compile(r"[^\W\d_]+|[\W\d_]+")
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SPARSE, _DENSE, _GOOD = "cyan", "dim", "bold green"


@dataclass(frozen=True)
class _Column:
    """One column: its title, what it shows, and the narrowest terminal that has room for it."""

    title: str
    show: Callable[[Line], str | Text]  # a str is shown as it is: no markup
    justify: JustifyMethod = "left"
    from_width: int = 0


def _name(line: Line, room: int) -> str:
    more = f" +{len(line.rows) - 1} alike" if len(line.rows) > 1 else ""
    return shorten(line.first.name, room - len(more)) + more


def shorten(name: str, room: int) -> str:
    """A name in at most `room` characters: its longest words cut, its numbers kept.

    Numbers are what tells the layers of a deep model apart, so only a name that is too long with
    every word cut to the shortest loses its middle.
    """
    parts = _WORD.findall(printable(name))
    while sum(map(len, parts)) > room:
        longest = max(range(len(parts)), key=lambda i: len(parts[i]) * parts[i][0].isalpha())
        if not parts[longest][0].isalpha() or len(parts[longest]) <= _SHORTEST_WORD:
            head, text = room // 3, "".join(parts)
            return f"{text[:head]}…{text[len(text) - (room - head - 1) :]}"
        parts[longest] = parts[longest][:-1]
    return "".join(parts)


def _shape(line: Line) -> str:
    if len({row.shape for row in line.rows}) > 1:
        return "various"
    shape = line.first.shape
    return "–" if shape is None else f"{shape[0]}×{shape[1]}"


def _pattern(line: Line) -> str:
    return shorten(line.first.structure or line.first.pattern, _LONGEST_WORD)


def _density(line: Line) -> Text:
    if line.first.shape is None:
        return Text("–")
    bar = density_bar(line.density)
    return Text.assemble((bar, _SPARSE if line.note is None else _DENSE), f" {line.density:4.0%}")


def density_bar(density: float) -> str:
    """A share from 0 to 1 as a bar of six cells, to an eighth of a cell."""
    full, eighths = divmod(round(density * _BAR_CELLS * 8), 8)
    return ("█" * full + (_EIGHTHS[eighths] if eighths else "")).ljust(_BAR_CELLS, "·")


def _time(line: Line) -> Text:
    if line.note is not None:
        return Text(ms(line.est_ms))
    return Text.assemble(f"{ms(line.first.dense_ms)} → ", (ms(line.est_ms), _GOOD))


def _note(line: Line) -> str:
    return "" if line.note is None else Note.mark(line.note)


_COLUMNS = (
    _Column("op", lambda line: shorten(line.first.op, _LONGEST_WORD), from_width=120),
    _Column("shape", _shape, "right"),
    _Column("MACs", lambda line: count(line.macs), "right", from_width=110),
    _Column("pattern", _pattern),
    _Column("density", _density),
    _Column("est. ms", _time, "right"),
    _Column("kernel", lambda line: shorten(line.first.kernel, _LONGEST_WORD), from_width=100),
    _Column("why", _note, "center"),
)


def render(report: Report, width: int) -> Iterator[RenderableType]:
    """The parts of a drawn report, top to bottom.

    Args:
        report: What to draw.
        width: Columns of the terminal.
    """
    lines, notes = lay_out(report.rows)
    yield _headline(report)
    if lines:
        yield _table(lines, width)
    if notes:
        yield _notes(notes)
    yield _totals(report)


def _headline(report: Report) -> Text:
    sparse = sum(row.is_sparse for row in report.rows)
    factored = sum(bool(row.structure) for row in report.rows)
    layers = f"{len(report.rows)} layer{'s' if len(report.rows) != 1 else ''}, {sparse} sparse"
    layers += f", {factored} as smaller factors" if factored else ""
    layers += f", {report.before_weights}" if report.before_weights else ""
    style = _SPARSE if sparse or factored or report.before_weights else ""
    parts = [(report.title, "bold"), (report.target, ""), (layers, style)]
    return Text(" · ").join(Text(printable(text), style) for text, style in parts if text)


def _table(lines: list[Line], width: int) -> Table:
    columns = [column for column in _COLUMNS if width >= column.from_width]
    cells = [[_text(column.show(line)) for line in lines] for column in columns]
    widths = [
        max(len(column.title), *map(len, shown))
        for column, shown in zip(columns, cells, strict=True)
    ]
    room = max(width - sum(widths) - _GAP * len(columns) - 1, _NARROWEST_NAME)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("layer", no_wrap=True)
    for column, its_width in zip(columns, widths, strict=True):
        table.add_column(column.title, justify=column.justify, no_wrap=True, min_width=its_width)
    for line, row in zip(lines, zip(*cells, strict=True), strict=True):
        table.add_row(_text(_name(line, room)), *row, style="" if line.note is None else _DENSE)
    return table


def _text(cell: str | Text) -> Text:
    return Text(printable(cell)) if isinstance(cell, str) else cell


def _notes(notes: list[Note]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    table.add_row()
    for index, note in enumerate(notes):
        table.add_row(Note.mark(index), f"{note.layers}×", _text(note.text), style=_DENSE)
    return table


def _totals(report: Report) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row()
    if report.rows:
        table.add_row("estimate", _estimate(report))
    if report.regions:
        table.add_row("regions", _text(_regions(report)))
    if report.size_bytes is not None:
        table.add_row("size", size(report.size_bytes))
    if report.plan is not None and report.plan.recovery is not None:
        table.add_row("recovery", _text(str(report.plan.recovery)))
    for title, measured in (("numerics", report.numerics), ("quality", report.quality)):
        if measured:
            table.add_row(title, _text(_measured(measured)))
    for reason, nodes in report.refusals_by_reason().items():
        table.add_row("not done", _text(f"{nodes}× {reason}"), style=_DENSE)
    return table


def _estimate(report: Report) -> Text:
    where = estimated_on(report.target)
    times = f"{ms(report.dense_ms)} → {ms(report.est_ms)} ms on {where}"
    if report.speedup == 1:
        return Text(f"{ms(report.est_ms)} ms on {where}, nothing runs sparse")
    if report.speedup < 1:
        return Text(f"{times}, {report.speedup:.2f}× the speed: slower")
    return Text.assemble(f"{times}, ", (f"{report.speedup:.2f}× faster", _GOOD))


def _regions(report: Report) -> str:
    inside, outside = sum(map(len, report.regions)), report.outside_by_reason()
    several = "s" if len(report.regions) > 1 else ""
    total = inside + sum(outside.values())
    text = f"{inside} of {total} nodes in {len(report.regions)} region{several}"
    reasons = ", ".join(f"{nodes}× {reason}" for reason, nodes in outside.items())
    return f"{text}; outside: {reasons}" if reasons else text


def _measured(values: Mapping[str, float]) -> str:
    return " · ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in values.items())


__all__ = ["density_bar", "render", "shorten"]
