"""Writes the calibration tables that come with sparsecc: `python -m benchmarks.tables`.

Targets that were calibrated on this machine get what was learned, without the measurements; the
others are derived from them by their figures, and say so.
"""

from __future__ import annotations

from pathlib import Path

import typer

from sparsecc import cost
from sparsecc.cost.calibration import derived
from sparsecc.cost.table import TABLE_FILE, measured_as, own_path, read_table
from sparsecc.targets import TARGETS

LIKE = "x86-64-v4"
"""What targets that cannot be timed here are derived from."""


def main() -> None:
    """Writes a table for every target."""
    folder = Path(cost.__file__).with_name("tables")
    like = read_table(own_path(TARGETS[LIKE]), TARGETS[LIKE])
    for target in TARGETS.values():
        if measured_as(target) != target:
            continue
        path = own_path(target)
        table = read_table(path, target) if path.is_file() else derived(target, like)
        TABLE_FILE.save(table.model_copy(update={"rows": {}}), folder / f"{target.name}.json")
        print(f"{target.name}: {'derived' if table.derived else table.machine}")


if __name__ == "__main__":
    typer.run(main)
