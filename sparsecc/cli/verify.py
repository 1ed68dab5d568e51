"""``sparsecc verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsecc.cli.command import JsonOption, show

if TYPE_CHECKING:
    from rich.console import RenderableType

NAME = "verify"
EXAMPLES = """
[bold]Examples[/]

\b
  sparsecc verify out
  sparsecc verify out --json
"""


def command(
    artifact: Annotated[
        Path, typer.Argument(metavar="DIR", help="Artifact folder.", show_default=False)
    ],
    as_json: JsonOption = False,
) -> None:
    """Check that an artifact computes what it should.

    Its hashes are checked, and its outputs compared with those of its masked-dense twin (the same
    weights in standard operators) and with those of stock ONNX Runtime without the library; where
    there is none, with what the twin gave when it was compiled. The exit code is 1 if any fails.
    """
    from sparsecc.progress import bar
    from sparsecc.verify import verify

    with bar(f"verifying {artifact}") as progress:
        result = verify(artifact, progress)
    show(result, _drawing(result), as_json=as_json)
    if not result["ok"]:
        raise typer.Exit(1)


def _drawing(result: dict[str, Any]) -> RenderableType:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for check in (*result["checks"], {**result, "name": "artifact"}):
        mark, style = ("✓", "green") if check["ok"] else ("✗", "bold red")
        error = f"max relative error {check['max_rel_error']:.2g}"
        table.add_row(mark, check["name"], error, style=style)
    return table


__all__ = ["EXAMPLES", "NAME", "command"]
