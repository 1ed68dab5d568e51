"""``sparsecc package``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsecc.cli.command import JsonOption, show

NAME = "package"
EXAMPLES = """
[bold]Examples[/]

\b
One file to hand on, with the licence of the model in it:
  sparsecc package out -o digits.zip --licence LICENSE
"""


def command(
    artifact: Annotated[
        Path, typer.Argument(metavar="DIR", help="Artifact folder.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="FILE", help="A .zip file.", show_default=False),
    ],
    licence: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Licence of the model, to be put into it.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put an artifact into one file: the same folder gives the same bytes.

    Its hashes are checked first. Beside its files the archive holds the plan, the hashes, the
    licences and the numerics that were measured, in the folder about.
    """
    from rich.text import Text

    from sparsecc.manifest import file_entry
    from sparsecc.package import package

    path = package(artifact, out, licence)
    entry = file_entry(path)
    data = {"package": str(path), "bytes": entry.bytes, "sha256": entry.sha256}
    said = Text.assemble("wrote ", (str(path), "bold green"), f"\nsha256 {entry.sha256}")
    show(data, said, as_json=as_json)


__all__ = ["EXAMPLES", "NAME", "command"]
