"""``sparsecc report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsecc.cli.command import JsonOption, show

NAME = "report"
EXAMPLES = """
[bold]Examples[/]

\b
A page to open in a browser:
  sparsecc report out -o report.html
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

    files = [out] if out else [] if as_json else [_FILE]
    for file in files:
        check_destination(file)
    made = document(Report.from_manifest(open_artifact(artifact), title=artifact.resolve().name))
    for file in files:
        write(made, file)
    wrote = Text.assemble("wrote ", (", ".join(map(str, files)), "bold green"))
    show(made.to_json(), wrote, as_json=as_json)


__all__ = ["EXAMPLES", "NAME", "command"]
