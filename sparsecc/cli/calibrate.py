"""``sparsecc calibrate``."""

from __future__ import annotations

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
"""


def command(
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Target to measure; this machine must run it. Or a target file."
        ),
    ] = "native",
    as_json: JsonOption = False,
) -> None:
    """Measure how fast the kernels are on this machine, for better estimates.

    It takes a few minutes, on one core that nothing else should keep busy. An interrupted run goes
    on where it stopped.
    """
    from rich.text import Text

    from sparsecc.cost.calibration import calibrate
    from sparsecc.cost.table import TABLE_FILE
    from sparsecc.progress import bar

    with bar("calibrating") as progress:
        path = calibrate(target, progress=progress)
    table = TABLE_FILE.load(path)
    result = {
        "path": str(path),
        "name": table.name,
        "target": table.target.name,
        "machine": table.machine,
        "peak_gflops": table.peak_gflops,
        "bandwidths_gbs": list(table.bandwidths),
        "shapes": sum(map(len, table.rows.values())),
    }
    what = (
        f"{result['shapes']} shapes of {len(table.rows)} kernels on {table.machine}: peak "
        f"{table.peak_gflops:.0f} GFLOP/s\n{path}"
    )
    show(result, Text(what), as_json=as_json)


__all__ = ["EXAMPLES", "NAME", "command"]
