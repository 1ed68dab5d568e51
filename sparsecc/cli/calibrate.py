"""``sparsecc calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsecc.cli.command import JsonOption, show

NAME = "calibrate"
EXAMPLES = """
[bold]Examples[/]

\b
Measure this machine, so that estimates are of it:
  sparsecc calibrate
\b
Only its AVX2 kernels:
  sparsecc calibrate --target x86-64-v3
\b
Take over what `python -m benchmarks.gpu` measured on a GPU:
  sparsecc calibrate --measured out/gpu.json
"""


def command(
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Target to measure; this machine must run it. Or a target file. [default: native, "
            "or with --measured that of the GPU]",
            show_default=False,
        ),
    ] = "",
    measured: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON of `python -m benchmarks.gpu`, run on a GPU: nothing is measured here.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast the kernels are on this machine, for better estimates.

    It takes a few minutes, on one core that nothing else should keep busy. An interrupted run goes
    on where it stopped.
    """
    from rich.text import Text

    from sparsecc.cost.table import TABLE_FILE

    path = _measured_here(target or "native") if measured is None else _taken(measured, target)
    table = TABLE_FILE.load(path)
    cases = sum(each.cases for each in table.gpu.reached.values()) if table.gpu else 0
    result = {
        "path": str(path),
        "name": table.name,
        "target": table.target.name,
        "machine": table.machine,
        "peak_gflops": table.peak_gflops,
        "bandwidths_gbs": list(table.bandwidths),
        "shapes": sum(map(len, table.rows.values())) + cases,
    }
    of = f"{len(table.rows)} kernels on {table.machine}: peak {table.peak_gflops:.0f} GFLOP/s"
    if table.gpu:
        families = sum(each.cases > 0 for each in table.gpu.reached.values())
        of = (
            f"{families} of {len(table.gpu.reached)} families of kernels on {table.machine}: "
            f"memory {table.bandwidths[-1]:.0f} GB/s, a launch {1e3 * table.gpu.launch_ms:.1f} µs"
        )
    show(result, Text(f"{result['shapes']} shapes of {of}\n{path}"), as_json=as_json)


def _measured_here(target: str) -> Path:
    from sparsecc.cost.calibration import calibrate
    from sparsecc.progress import bar

    with bar("calibrating") as progress:
        return calibrate(target, progress=progress)


def _taken(measured: Path, target: str) -> Path:
    from sparsecc.cost.gpu.calibration import calibrate

    return calibrate(measured, target)


__all__ = ["EXAMPLES", "NAME", "command"]
