"""What was found as a page: one file, in the style of a report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from sparsecc.errors import ReportError
from sparsecc.report import page
from sparsecc.report.facts import Fact
from sparsecc.report.plots.axes import Axis
from sparsecc.report.words import count, size
from sparsecc.report.write import put
from sparsecc.simulate import draw
from sparsecc.simulate.cluster import Cluster
from sparsecc.simulate.model import Model, parameters
from sparsecc.simulate.search import Found
from sparsecc.simulate.step import PARTS, Outcome

WIDTH, LEFT, RIGHT, TOP, ROW, BAR = 960, 232, 92, 8, 26, 16
BOTTOM = 34


@dataclass(frozen=True)
class Piece:
    """A part of a bar.

    Attributes:
        x: Where it begins.
        width: How wide it is.
        kind: Its class.
        tip: What it is.
    """

    x: float
    width: float
    kind: str
    tip: str


@dataclass(frozen=True)
class Bar:
    """The step of a configuration.

    Attributes:
        y: Where it is.
        label: The configuration.
        total: Its time.
        end: Where it ends.
        pieces: Where the time goes.
    """

    y: int
    label: str
    total: str
    end: float
    pieces: tuple[Piece, ...]


def to_html(model: Model, cluster: Cluster, found: Found, most: int) -> str:
    """The page: same findings, same text."""
    outcomes = found.outcomes[:most]
    longest = max((each.seconds for each in outcomes), default=1.0)
    axis = Axis(0.0, longest, LEFT, WIDTH - RIGHT)
    bars = [_bar(index, each, axis) for index, each in enumerate(outcomes)]
    return page.render(
        "simulate.html.jinja",
        title=draw.title(model, cluster),
        name=model.name,
        facts=_facts(model, cluster, outcomes[0]) if outcomes else [],
        nothing=draw.nothing_fits(cluster, found) if not outcomes else "",
        seen=draw.seen(found, most),
        bars=bars,
        axis=axis,
        legend=[(name, part.words) for name, part in PARTS.items() if _has(outcomes, name)],
        columns=draw.COLUMNS,
        rows=[draw.cells(each) for each in outcomes],
        plot={"WIDTH": WIDTH, "LEFT": LEFT, "RIGHT": RIGHT, "BAR": BAR, "TOP": TOP},
        height=TOP + ROW * len(bars) + BOTTOM,
    )


def write(text: str, path: Path) -> None:
    """Write a page, completely or not at all.

    Raises:
        ReportError: It cannot be written.
    """
    if path.suffix.lower() != ".html":
        raise ReportError(f"{path} is not called .html, which it is", fix="call it so")
    put(text, path, "page")


def _bar(index: int, outcome: Outcome, axis: Axis) -> Bar:
    pieces, begin = [], 0.0
    for name, part in outcome.parts.items():
        x, begin = axis(begin), begin + part
        share = f"{draw.seconds(part)}, {part / outcome.seconds:.1%}"
        tip = f"{PARTS[name].words}: {share}"
        pieces.append(Piece(x, round(axis(begin) - x, 1), f"part {name}", tip))
    return Bar(
        y=TOP + ROW * index,
        label=str(outcome.choice),
        total=draw.seconds(outcome.seconds),
        end=axis(outcome.seconds),
        pieces=tuple(pieces),
    )


def _has(outcomes: tuple[Outcome, ...], part: str) -> bool:
    return any(part in each.parts for each in outcomes)


def _facts(model: Model, cluster: Cluster, best: Outcome) -> list[Fact]:
    memory = best.memory
    notes = tuple(f"{name} {size(round(part))}" for name, part in asdict(memory).items())
    every, active = parameters(model)
    return [
        Fact("MFU", f"{best.mfu:.1%}", ("of the peak of all devices", str(best.choice))),
        Fact("Tokens a second", draw.rate(best), (f"{cluster.devices} devices",)),
        Fact(
            "Step",
            draw.seconds(best.seconds),
            (
                f"{model.batch} sequences of {model.sequence}",
                f"{count(active)} of {count(every)} parameters active",
            ),
        ),
        Fact("Memory", size(round(memory.total)), notes),
    ]


__all__ = ["Bar", "Piece", "to_html", "write"]
