"""The table of docs/performance.md: `python -m benchmarks.gpu.page out/gpu.json`.

Every case that was timed is a row; kernels that were wrong are named above.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.page import put
from benchmarks.rows import cell

NAME = "gpu"
NOT_MEASURED = "not measured"
_HEADS = ("case", "fastest dense", "ms", "side", "ms", "× dense (quartiles)", "units", "memory")


def section(report: Mapping[str, Any]) -> str:
    """The device, whether kernels were right, and a table.

    Args:
        report: As ``benchmarks.gpu`` writes it.
    """
    versions = ", ".join(f"{name} {each}" for name, each in report["versions"].items())
    wrong = [each["kernel"] for each in report["checks"] if not each["passed"]]
    right = len(report["checks"]) - len(wrong)
    said = [
        f"{report['device']}; {versions}. {right} of {len(report['checks'])} checks passed"
        + (f", not {', '.join(wrong)}." if wrong else "."),
        f"{_rates(report)} Units and memory are shares of what its data sheet says.",
        _table([row for case in report["timings"] for row in _rows(case)]),
    ]
    stopped = [f"{step}: {why}" for step, why in report["stopped"].items()]
    return "\n\n".join([*said, *([f"Stopped: {'; '.join(stopped)}."] if stopped else [])])


def _rates(report: Mapping[str, Any]) -> str:
    """What the GPU did at best."""
    units = {"launch": ("a launch", "µs", "ms", 1e3)}
    units |= {name: (name, "GB/s", "gbs", 1.0) for name in ("memory", "cache")}
    found = {each["rate"]: each for each in report["rates"]}
    told = []
    for rate, (name, unit, key, scale) in units.items():
        value = found.get(rate, {}).get(key)
        told.append(f"{name} {NOT_MEASURED if value is None else f'{scale * value:.3g} {unit}'}")
    return f"At best: {', '.join(told)}."


def _rows(case: Mapping[str, Any]) -> list[Sequence[str]]:
    """A row for each side of a case that is not its baseline, and for each that failed."""
    sides, baseline = case["sides"], case["baseline"]
    begin = (case["case"], baseline, f"{sides[baseline]['ms']:.3g}")
    rows = []
    for name, side in sides.items():
        if name != baseline:
            ratio = cell((side["ratio"], side["ratio_low"], side["ratio_high"]))
            reached = case["reached"].get(name, {})
            shares = (_share(reached.get(which)) for which in ("matrix_units", "memory"))
            rows.append((*begin, name, f"{side['ms']:.3g}", ratio, *shares))
    failed = (((*begin, name, *[NOT_MEASURED] * 4)) for name in case["failed"])
    return [*rows, *failed]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return NOT_MEASURED
    lines = [_HEADS, ("---",) * len(_HEADS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(
    report: Annotated[Path, typer.Argument(help="JSON of `python -m benchmarks.gpu`.")],
    page: Annotated[Path, typer.Option(help="Page with the markers.")] = Path(
        "docs/performance.md"
    ),
) -> None:
    """Put what was measured on a GPU into a page, in the place of what stands there."""
    put(page, NAME, section(json.loads(report.read_text())))


if __name__ == "__main__":
    typer.run(main)
