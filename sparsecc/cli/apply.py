"""``sparsecc apply``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsecc.cli.command import JsonOption
from sparsecc.cli.compile import tell
from sparsecc.cli.options import (
    MODEL,
    Backend,
    Calibration,
    Executor,
    Labels,
    LibraryName,
    OutFolder,
    Place,
    Preprocess,
    Tokenizer,
    Tune,
    read_calibration,
    read_labels,
)

NAME = "apply"
EXAMPLES = """
[bold]Examples[/]

\b
  sparsecc apply model.onnx plan.json --calibration data.npz -o out
\b
The same plan for a checkpoint that was trained further:
  sparsecc apply tuned.onnx plan.json --calibration data.npz -o out
"""


def command(
    model: Annotated[Path, MODEL],
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="Plan file.", show_default=False)],
    out: OutFolder,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Other hardware than the plan was made for.", show_default=False
        ),
    ] = None,
    backend: Backend = None,
    name: LibraryName = "model",
    calibration: Calibration = None,
    tokenizer: Tokenizer = None,
    preprocess: Preprocess = None,
    labels: Labels = None,
    tune: Tune = None,
    executor: Executor = Place.processes,
    as_json: JsonOption = False,
) -> None:
    """Compile MODEL as PLAN says.

    The model is the one the plan was made for, or another checkpoint of it: its layers must have
    the same names and shapes. An edited plan is checked like any other.
    """
    import sparsecc
    from sparsecc.artifact import check_destination
    from sparsecc.progress import bar

    check_destination(out)
    read = sparsecc.Plan.load(plan)
    with bar(f"compiling {model.name}") as progress:
        compiled = sparsecc.apply(
            model,
            read,
            target=target,
            backend=backend,
            name=name,
            calibration=read_calibration(calibration, tokenizer, preprocess),
            labels=read_labels(labels),
            tune=tune,
            executor=executor.value,
            progress=progress,
        )
        compiled.save(out)
    guessed = calibration is None and any(layer.choice.changes for layer in read.layers)
    tell(compiled, model, out, guessed=guessed, as_json=as_json)


__all__ = ["EXAMPLES", "NAME", "command"]
