"""``sparsecc inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsecc.cli.command import JsonOption, show
from sparsecc.cli.options import Backend
from sparsecc.targets import TARGETS

if TYPE_CHECKING:
    from sparsecc.report import Report

NAME = "inspect"
EXAMPLES = """
[bold]Examples[/]

\b
What would sparsity bring here?
  sparsecc inspect model.onnx --target x86-64-v4
\b
What was done to each layer?
  sparsecc inspect out
\b
The ten slowest layers:
  sparsecc inspect model.onnx --json | jq '.layers | sort_by(-.est_ms)[:10][] | .name'
"""


def command(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL|DIR", help="ONNX file or artifact folder.", show_default=False
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"Hardware to estimate times for: native, {', '.join(TARGETS)}, or a target file "
            "(*.json). An artifact has its own.",
        ),
    ] = "native",
    backend: Backend = None,
    as_json: JsonOption = False,
) -> None:
    """Show each layer: shape, work, zeros, kernel, estimated time, and why it stays dense.

    Times are estimates for one thread; measure with `sparsecc bench`.
    """
    from sparsecc.progress import bar

    with bar(f"inspecting {model}"):
        report = _report(model, target, backend)
    show(report.to_json(), report, as_json=as_json)


def _report(model: Path, target: str, backend: str | None) -> Report:
    from sparsecc.report import Report

    if model.is_dir():
        from sparsecc.artifact import open_artifact

        return Report.from_manifest(open_artifact(model), title=model.name)
    from sparsecc import targets
    from sparsecc.inspection import inspect

    return Report(inspect(model, target, backend), targets.read(target).name, title=model.name)


__all__ = ["EXAMPLES", "NAME", "command"]
