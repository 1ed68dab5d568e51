"""``sparsecc report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsecc.cli.command import JsonOption, show

if TYPE_CHECKING:
    from sparsecc.report.measured import Measured

NAME = "report"
EXAMPLES = """
[bold]Examples[/]

\b
A page to open in a browser:
  sparsecc report out -o report.html
\b
With measured times, against the dense model it came from:
  sparsecc report out --bench --baseline model.onnx -o report.html
\b
For a review, and for a script:
  sparsecc report out -o report.md
  sparsecc report out --json | jq '.layers | sort_by(-.share)[:5][] | .name'
"""
_FILE = Path("report.html")


def command(
    artifact: Annotated[
        Path, typer.Argument(metavar="DIR", help="Artifact folder.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="File to write: .html is a page, .md is Markdown, .json is data. By default "
            "report.html, and none with --json.",
            show_default=False,
        ),
    ] = None,
    bench: Annotated[
        bool,
        typer.Option(
            "--bench",
            metavar="",
            help="Measure the model and each layer on this machine, on one thread, and show it.",
        ),
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL.onnx",
            help="With --bench: what to compare with, as `sparsecc bench` takes it.",
            show_default=False,
        ),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="NPZ",
            help="With --bench: inputs to run, as `sparsecc bench` takes them.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="S",
            help="With --bench: about how long to measure the model, and again its layers.",
        ),
    ] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Write what was done to a model, what that brings, and why.

    The page is one file that needs no network.
    """
    from rich.text import Text

    from sparsecc.artifact import open_artifact
    from sparsecc.report import Report
    from sparsecc.report.document import document
    from sparsecc.report.write import check_destination, write

    if not bench and (baseline or inputs):
        hint = "--baseline" if baseline else "--inputs"
        raise typer.BadParameter("says what to measure: it needs --bench", param_hint=hint)
    files = [out] if out else [] if as_json else [_FILE]
    for file in files:
        check_destination(file)
    report = Report.from_manifest(open_artifact(artifact), title=artifact.resolve().name)
    measured = _measured(artifact, baseline, inputs, seconds) if bench else None
    made = document(report, measured)
    for file in files:
        write(made, file)
    wrote = Text.assemble("wrote ", (", ".join(map(str, files)), "bold green"))
    show(made.to_json(), wrote, as_json=as_json)


def _measured(
    artifact: Path, baseline: Path | None, inputs: Path | None, seconds: float
) -> Measured:
    from sparsecc.bench import measure
    from sparsecc.progress import bar

    with bar(f"measuring {artifact}") as progress:
        return measure(artifact, baseline, inputs=inputs, seconds=seconds, progress=progress)


__all__ = ["EXAMPLES", "NAME", "command"]
