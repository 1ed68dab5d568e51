"""Progress of long work: a callback the work calls, and a bar that shows it.

A callback takes what is being done and the share of the whole that is done, 0 to 1. Work that
consists of parts hands each part a callback of its own, see :func:`part`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Progress = Callable[[str, float], None]
Counted = Callable[[str, int, int], None]
"""Of work that counts its steps: what is being done, steps done, steps in all."""


def silent(step: str, fraction: float) -> None:
    """A callback for nobody."""


def part(progress: Progress, start: float, end: float, prefix: str = "") -> Progress:
    """The callback of a part that stands for the share `start` to `end` of the whole.

    Args:
        progress: Callback of the whole.
        start: Share of the whole done when the part begins.
        end: Share of the whole done when the part ends.
        prefix: What the part is, put before its own steps.
    """

    def report(step: str, fraction: float) -> None:
        progress(f"{prefix} · {step}" if prefix else step, start + (end - start) * fraction)

    return report


def counted(progress: Progress) -> Counted:
    """The callback of work that counts its steps: (what, steps done, steps in all)."""
    return lambda step, done, steps: progress(step, done / max(1, steps))


def halves(told: Counted | None) -> tuple[Counted, Counted]:
    """The callbacks of two works that count their steps and are half of the whole each."""
    tell = told or (lambda step, done, steps: None)
    return (
        lambda step, done, steps: tell(step, done, 2 * max(1, steps)),
        lambda step, done, steps: tell(step, max(1, steps) + done, 2 * max(1, steps)),
    )


@contextlib.contextmanager
def bar(title: str) -> Iterator[Progress]:
    """A progress bar on standard error while the block runs, gone when it ends.

    Nothing is shown when standard error is not a terminal, so logs stay readable.

    Args:
        title: What the whole is, before the first step is known.
    """
    # rich costs a tenth of a second to import, which a library user who wants no bar should not pay
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bars
    from rich.table import Column

    from sparsecc.report.words import printable

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[title]}", style="bold", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn(
            "{task.description}",
            style="dim",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
    )
    shown = console.is_terminal
    with Bars(*columns, console=console, transient=True, expand=True, disable=not shown) as bars:
        task = bars.add_task("", total=None, title=title)  # moves to and fro until told more

        def report(step: str, fraction: float) -> None:
            bars.update(task, description=printable(step), total=1.0, completed=fraction)

        yield report


__all__ = ["Counted", "Progress", "bar", "counted", "halves", "part", "silent"]
