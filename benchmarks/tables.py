"""Writes the calibration tables that come with sparsecc: `python -m benchmarks.tables`.

Targets that were calibrated on this machine get what was learned, without the measurements; the
others are derived from them by their figures, and say so. With `--objects FILE` nothing is
measured or derived: tables stay as they are where their kernels compile to what the file of
`python -m benchmarks.objects` says, and take the hash of the sources as they are now.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.objects import changed
from sparsecc import cost
from sparsecc.cost.calibration import derived
from sparsecc.cost.gpu.assumed import assumed_table
from sparsecc.cost.table import (
    TABLE_FILE,
    Table,
    kernels_hash,
    measured_as,
    own_path,
    read_table,
    shipped_path,
)
from sparsecc.targets import TARGETS, Target

LIKE = "x86-64-v4"
"""What targets that cannot be timed here are derived from."""


def measured(target: Target) -> Table:
    """The table of a target: what was learned on this machine, else derived; a GPU's is assumed."""
    if target.family == "cuda":
        return assumed_table(target)
    path = own_path(target)
    if path.is_file():
        return read_table(path, target)
    return derived(target, read_table(own_path(TARGETS[LIKE]), TARGETS[LIKE]))


def kept(target: Target, before: Path) -> Table | str:
    """The table of a target for the sources as they are now, or which objects have changed.

    One that was derived holds for the target as it is now: its rates are of another's kernels.
    """
    path = shipped_path(target)
    if path is None:
        return "there is none"
    table = TABLE_FILE.load(path)
    if not table.derived and table.target != target:
        return "its target"
    if not table.derived and (other := changed(before, target.isas)):
        return ", ".join(other)
    return table.model_copy(update={"target": target, "kernels": kernels_hash(target)})


def main(
    objects: Annotated[
        Path | None, typer.Option(help="Hashes of the objects that the tables are of.")
    ] = None,
) -> None:
    """Writes a table for every target."""
    folder = Path(cost.__file__).with_name("tables")
    for target in TARGETS.values():
        if measured_as(target) != target:
            continue
        table = measured(target) if objects is None else kept(target, objects)
        if isinstance(table, str):
            print(f"{target.name}: not kept, changed: {table}")
            continue
        TABLE_FILE.save(table.model_copy(update={"rows": {}}), folder / f"{target.name}.json")
        print(f"{target.name}: {'derived' if table.derived else table.machine}")


if __name__ == "__main__":
    typer.run(main)
