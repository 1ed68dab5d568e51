"""What the kernels of every instruction set compile to: `python -m benchmarks.objects FILE`.

A calibration table is of certain kernels. Where sources were changed and the objects were not, as
by a new instruction set, what was measured still holds. Note the objects before the change; after
it, `python -m benchmarks.tables --objects FILE` proves that they are the same and keeps the tables.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from sparsecc.backends.codegen.toolchain import Build, compile_flags, compile_objects
from sparsecc.backends.kernels.sources import NOT_TIMED, isa_units, read_sources
from sparsecc.backends.kernels.table import ISAS


def object_hashes(isa: str) -> dict[str, str]:
    """SHA-256 of the object of each unit of an instruction set that a calibration measures."""
    parts = tuple(unit for unit in isa_units([isa]) if unit.source not in NOT_TIMED)
    triple = ISAS[isa].triple
    build = Build("", triple, read_sources(), parts, compile_flags(triple))
    with tempfile.TemporaryDirectory() as folder:
        made = compile_objects(build, Path(folder))
        content = [(Path(folder) / name).read_bytes() for name in made]
    names = (f"{unit.source} {unit.cpu}" for unit in parts)
    return {
        name: hashlib.sha256(each).hexdigest() for name, each in zip(names, content, strict=True)
    }


def changed(before: Path, isas: tuple[str, ...]) -> list[str]:
    """Units of instruction sets that compile to something else than a file of hashes says."""
    old = json.loads(before.read_text())
    found = []
    for isa in isas:
        new = object_hashes(isa)
        then = old.get(isa, {})
        found += [f"{isa} {unit}" for unit in new if new[unit] != then.get(unit)]
    return found


def main(file: Annotated[Path, typer.Argument(help="Where the hashes go.")]) -> None:
    """Writes the hashes of all objects."""
    file.write_text(json.dumps({isa: object_hashes(isa) for isa in ISAS}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
