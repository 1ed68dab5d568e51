"""``sparsecc bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsecc.cli.command import JsonOption, show

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from sparsecc.bench import BenchResult

NAME = "bench"
EXAMPLES = """
[bold]Examples[/]

\b
Against the dense model it came from, on one thread:
  sparsecc bench out --baseline model.onnx
\b
On four threads, with inputs of your own, for scripts:
  sparsecc bench out --baseline model.onnx --threads 4 --inputs x.npz --json
"""


def command(
    artifact: Annotated[
        Path, typer.Argument(metavar="DIR", help="Artifact folder.", show_default=False)
    ],
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL.onnx",
            help="Model to compare with, run on stock ONNX Runtime. By default the artifact "
            "without its library, which computes the same densely.",
            show_default=False,
        ),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="NPZ",
            help="Inputs to run: one array per input of the model. By default made up: open "
            "dimensions are 1 on the first axis, 16 for sequences, 64 for pictures.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="Threads of each side.")] = 1,
    seconds: Annotated[
        float, typer.Option(min=0.1, metavar="S", help="About how long to measure.")
    ] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Measure an artifact against a dense model, side by side.

    The two run in processes of their own, take turns, and see the same inputs. Reported are
    medians, the speed-up as the median over turns with its quartiles, and peak memory.
    """
    from sparsecc.bench import compare
    from sparsecc.progress import bar

    with bar(f"measuring {artifact}") as progress:
        result = compare(
            artifact,
            baseline,
            inputs=inputs,
            threads=threads,
            seconds=seconds,
            progress=progress,
        )
    show(result.to_json(), _drawing(result, artifact), as_json=as_json)


def _drawing(result: BenchResult, artifact: Path) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from sparsecc.bench import PORTABLE
    from sparsecc.report.words import ms, number

    ours = artifact.resolve().name
    portable = result.baseline == PORTABLE
    columns = {
        "": (ours, f"{ours} without its library" if portable else Path(result.baseline).name),
        "median": [f"{ms(time)} ms" for time in (result.ours_ms, result.baseline_ms)],
        "spread": [f"±{spread / 2:.1%}" for spread in (result.ours_spread, result.baseline_spread)],
        "runs/s": [number(rate) for rate in (result.throughput, result.baseline_throughput)],
        "peak memory": [
            f"{memory:.0f} MB" for memory in (result.peak_rss_mb, result.baseline_peak_rss_mb)
        ],
    }
    sides = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in columns:
        sides.add_column(title, justify="right" if title else "left", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        sides.add_row(*map(Text, row))
    return Group(sides, _verdict(result), _agreement(result))


def _verdict(result: BenchResult) -> Text:
    from rich.text import Text

    faster = result.ratio >= 1
    return Text.assemble(
        "\n",
        (
            f"{result.ratio:.2f}× {'faster' if faster else 'the speed: slower'}",
            "bold green" if faster else "bold red",
        ),
        f"  ({result.ratio_low:.2f}–{result.ratio_high:.2f} over {result.rounds} turns, "
        f"{result.threads} thread{'s' if result.threads > 1 else ''} each)",
    )


def _agreement(result: BenchResult) -> Text:
    from rich.text import Text

    if result.max_rel_difference is None:
        return Text("no output of the two can be compared", style="dim")
    return Text(
        f"outputs differ by up to {result.max_rel_difference:.2g} of their largest value", "dim"
    )


__all__ = ["EXAMPLES", "NAME", "command"]
