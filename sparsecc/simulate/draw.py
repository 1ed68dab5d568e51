"""What was found, for a terminal and as data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparsecc.report.words import count, ms, printable, size
from sparsecc.simulate.cluster import Cluster
from sparsecc.simulate.model import Model, parameters
from sparsecc.simulate.search import Found
from sparsecc.simulate.step import PARTS, Outcome

_BAR = 40


def to_json(model: Model, cluster: Cluster, found: Found, most: int) -> dict[str, Any]:
    """The same for programs: seconds, bytes and shares."""
    smallest, needs = found.smallest
    return {
        "model": model.name,
        "cluster": cluster.name,
        "devices": cluster.devices,
        "parameters": parameters(model)[0],
        "active_parameters": parameters(model)[1],
        "fitting": len(found.outcomes),
        "too_large": found.too_large,
        "smallest": {**smallest.model_dump(), "memory_bytes": needs.total},
        "configurations": [_fields(outcome) for outcome in found.outcomes[:most]],
    }


def render(model: Model, cluster: Cluster, found: Found, most: int) -> RenderableType:
    """The best configurations, and where the time of the first one goes.

    Args:
        model: What is trained.
        cluster: On what.
        found: By the search.
        most: How many configurations to show.
    """
    lines: list[RenderableType] = [Text(printable(title(model, cluster)), "bold")]
    if not found.outcomes:
        return Group(*lines, Text(nothing_fits(cluster, found), "yellow"))
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in _WORDS else "right", no_wrap=True)
    for outcome in found.outcomes[:most]:
        table.add_row(*cells(outcome), style="bold green" if outcome is found.outcomes[0] else "")
    best = found.outcomes[0]
    lines += [
        Text(seen(found, most), "dim"),
        table,
        Text(f"\nwhere a step of {best.choice} goes", "bold"),
        _breakdown(best),
    ]
    return Group(*lines)


COLUMNS = (
    "configuration",
    "DP",
    "rounds",
    "again",
    "experts",
    "step",
    "tok/s",
    "MFU",
    "memory",
)
_WORDS = ("configuration", "again", "experts")
_EXCHANGES = {"flat": "flat", "hierarchical": "by node"}


def cells(outcome: Outcome) -> tuple[str, ...]:
    """A row of the table of configurations; rounds are micro-batches, again is recomputation."""
    choice = outcome.choice
    return (
        str(choice),
        str(outcome.data),
        str(outcome.micro_batches),
        choice.recompute,
        _EXCHANGES[choice.exchange],
        seconds(outcome.seconds),
        rate(outcome),
        f"{outcome.mfu:.1%}",
        size(round(outcome.memory.total)),
    )


def title(model: Model, cluster: Cluster) -> str:
    """What is simulated, on one line."""
    every, active = parameters(model)
    return (
        f"{model.name}, {count(every)} parameters, {count(active)} of them active"
        f" · {cluster.name}, {cluster.devices} devices"
    )


def seen(found: Found, most: int) -> str:
    """How many were looked at, and how many are shown."""
    fitting = len(found.outcomes)
    return f"{fitting} configurations fit in memory, {found.too_large} do not; the best " + (
        f"{min(most, fitting)}" if min(most, fitting) > 1 else "one"
    )


def nothing_fits(cluster: Cluster, found: Found) -> str:
    """Why there is no table."""
    choice, needs = found.smallest
    return (
        f"nothing fits: {choice} with {choice.recompute} recomputation needs the least, "
        f"{size(round(needs.total))} of {size(round(cluster.device.memory))} of a device"
    )


def seconds(value: float) -> str:
    """A time, as short as it is."""
    return f"{value:.3g} s" if value >= 1 else f"{ms(value * 1e3)} ms"


def rate(outcome: Outcome) -> str:
    """Tokens a second, to three digits."""
    value = outcome.tokens_per_s
    for prefix in ("", "k", "M"):
        if value < 1000 or prefix == "M":
            break
        value /= 1000
    return f"{value:.3g}{prefix}"


def _breakdown(outcome: Outcome) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, part in outcome.parts.items():
        share = part / outcome.seconds
        bar = "█" * round(share * _BAR) or "▏"
        table.add_row(PARTS[name].words, seconds(part), f"{share:.1%}", Text(bar, "green"))
    memory = asdict(outcome.memory)
    table.add_row()
    for name, part in memory.items():
        bar = "█" * round(part / outcome.memory.total * _BAR) or "▏"
        table.add_row(
            name, size(round(part)), f"{part / outcome.memory.total:.1%}", Text(bar, "blue")
        )
    return table


def _fields(outcome: Outcome) -> dict[str, Any]:
    return {
        **outcome.choice.model_dump(),
        "data": outcome.data,
        "micro_batches": outcome.micro_batches,
        "seconds": outcome.seconds,
        "tokens_per_s": outcome.tokens_per_s,
        "mfu": outcome.mfu,
        "parts": dict(outcome.parts),
        "memory_bytes": {**asdict(outcome.memory), "total": outcome.memory.total},
    }


__all__ = [
    "COLUMNS",
    "cells",
    "nothing_fits",
    "rate",
    "render",
    "seconds",
    "seen",
    "title",
    "to_json",
]
