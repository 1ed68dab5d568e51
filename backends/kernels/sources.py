"""The kernels' C sources as compilation units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparsecc.backends.codegen.toolchain import Unit
from sparsecc.backends.kernels.table import ISAS, Isa, c_header

HERE = Path(__file__).parent
PER_ISA = (
    *("plan.c", "geometry.c", "tile.c", "conv.c"),
    *("depthwise.c", "depthwise_same.c", "matmul.c"),
)
"""Compiled once per instruction set."""

BASE = ("check.c", "cpu.c")
"""Compiled once, for a CPU that may have none of them."""

CLANG_WIDE = ("-mprefer-vector-width=512",)
"""clang would otherwise split 64-byte vectors into halves on x86-64-v4."""


def read_sources(*folders: Path) -> dict[str, str]:
    """Text of all C files of the kernels and of more folders by name, the generated table too."""
    files = (file for folder in (HERE, *folders) for file in sorted(folder.glob("*.[ch]")))
    return {file.name: file.read_text() for file in files} | {"sc_table.h": c_header()}


def _per_isa(isa: Isa) -> tuple[Unit, ...]:
    defines = (f"VB={isa.vector_bytes}", f"SC_SUFFIX={isa.suffix}")
    flags = CLANG_WIDE if isa.vector_bytes == 64 else ()
    return tuple(Unit(source, isa.cpu, defines, flags) for source in PER_ISA)


def units(isas: Sequence[str], *more: str) -> tuple[Unit, ...]:
    """Units of a library with the variants ``isas`` and the base sources ``more`` beside."""
    chosen = [ISAS[name] for name in isas]
    has = tuple(f"SC_HAS_{isa.suffix.upper()}" for isa in chosen)
    base = tuple(Unit(source, defines=has) for source in (*BASE, *more))
    return tuple(unit for isa in chosen for unit in _per_isa(isa)) + base
