"""``sparsecc plan``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsecc.cli.command import JsonOption, show
from sparsecc.cli.options import (
    MODEL,
    Attention,
    Backend,
    BestEffort,
    Executor,
    Experts,
    KeepExperts,
    Labels,
    MaxBytes,
    MaxDrop,
    MaxMs,
    Mode,
    NeededCalibration,
    Online,
    Permute,
    Place,
    Preprocess,
    Quality,
    Recover,
    SearchMode,
    Seed,
    Tokenizer,
    read_calibration,
    read_labels,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sparsecc.search.plan import Plan

NAME = "plan"
EXAMPLES = """
[bold]Examples[/]

\b
The fastest plan that keeps the embeddings within one per cent:
  sparsecc plan encoder.onnx --calibration data.npz --max-drop 0.01 -o plan.json
\b
A classifier and its labels:
  sparsecc plan model.onnx --calibration data.npz --labels labels.npy --max-drop 0.005 -o plan.json
\b
With zeros that ten minutes of training make good, which `apply` then repeats:
  sparsecc plan encoder.onnx --calibration data.npz --max-drop 0.01 --recover 10min -o plan.json
\b
Then edit it if you like, and carry it out:
  sparsecc apply model.onnx plan.json --calibration data.npz -o out
"""


def command(
    model: Annotated[Path, MODEL],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="FILE", help="Plan file to write.", show_default=False),
    ],
    calibration: NeededCalibration,
    tokenizer: Tokenizer = None,
    preprocess: Preprocess = None,
    target: Annotated[
        str, typer.Option(metavar="NAME", help="Hardware to plan for, as `compile` takes it.")
    ] = "native",
    backend: Backend = None,
    max_drop: MaxDrop = None,
    max_ms: MaxMs = None,
    max_bytes: MaxBytes = None,
    quality: Quality = None,
    labels: Labels = None,
    mode: SearchMode = Mode.fast,
    seed: Seed = 0,
    best_effort: BestEffort = False,
    recover: Recover = None,
    permute: Permute = False,
    attention: Attention = None,
    online: Online = None,
    experts: Experts = None,
    keep_experts: KeepExperts = None,
    executor: Executor = Place.processes,
    as_json: JsonOption = False,
) -> None:
    """Search for the best plan of MODEL within a budget, and write it down.

    Every layer is tried with several patterns and shares of zeros; the plan says for each what is
    done, what that takes and loses, and why not the rest. Half of the calibration data is held out
    to judge by.
    """
    import sparsecc
    from sparsecc.progress import bar

    with bar(f"planning {model.name}") as progress:
        plan = sparsecc.plan(
            model,
            target,
            backend=backend,
            calibration=read_calibration(calibration, tokenizer, preprocess),
            labels=read_labels(labels),
            max_drop=max_drop,
            max_ms=max_ms,
            max_bytes=max_bytes,
            quality=quality,
            mode=mode.value,
            seed=seed,
            best_effort=best_effort,
            recover=recover,
            permute=permute,
            attention=attention,
            online=online,
            experts=experts,
            keep_experts=keep_experts,
            executor=executor.value,
            progress=progress,
        )
        plan.save(out)
    data = {"plan": str(out), **json.loads(plan.to_json())}
    show(data, _drawing(plan, model, out), as_json=as_json)


def _drawing(plan: Plan, model: Path, out: Path) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from sparsecc.report.changes import before_weights
    from sparsecc.report.words import ms, printable

    assert plan.budget is not None
    table = Table.grid(padding=(0, 2))
    for point in plan.points:
        mark, style = ("●", "bold green") if point.chosen else ("○", "dim")
        drop = f"−{point.drop:.2%}" if point.drop else "–"
        time = f"{ms(point.predicted_ms)} ms"
        table.add_row(mark, printable(point.name), time, drop, style=style)
    title = f"plans weighed: estimated time of one run, drop of {plan.budget.metric}"
    lines: list[RenderableType] = [Text(printable(title), "bold"), table]
    if before := before_weights(plan):
        lines.append(Text(f"before that: {printable(before)}", "green"))
    if plan.dense_because:
        lines.append(Text(f"weights stay dense: {printable(plan.dense_because)}", "yellow"))
    lines += [
        Text.assemble("wrote ", (str(out), "bold green")),
        Text(f"next: sparsecc apply {model} {out} -o DIR", "dim"),
    ]
    return Group(*lines)


__all__ = ["EXAMPLES", "NAME", "command"]
