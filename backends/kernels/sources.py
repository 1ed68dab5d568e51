"""The kernels' C sources as compilation units."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

from sparsecc.backends.codegen.toolchain import Unit, included
from sparsecc.backends.kernels.table import ISAS, STEPS, Isa, c_header

HERE = Path(__file__).parent
TOKENS = (
    *("matmul16.c", "matmul_step.c", "attention.c", "attention_rows.c", "attention_t64.c"),
    *("attention_blocks.c", "attention_masses.c", "attention_choice.c"),
    *("norm.c", "elementwise.c", "select.c", "patches.c", "t64.c", "experts.c", "moe.c"),
    "experts_codes.c",
)
"""Steps over tokens; the second needs :data:`PIXELS`, among those of :data:`PER_ISA`."""

PIXELS = (
    *("plan.c", "geometry.c", "tile.c", "conv.c", "generated.c", "generated_image.c"),
    *("depthwise.c", "depthwise_same.c", "matmul.c", "chain.c", "chain_plan.c", "chain_grid.c"),
    "chain_gate.c",
)
"""The ops with pixels or tokens in the lanes, among those of :data:`PER_ISA`."""

PER_ISA: tuple[str, ...] = (
    *PIXELS,
    "steps.c",
    "conv_step.c",
    "image.c",
    "planes.c",
    "extern.c",
    *TOKENS,
)
"""Compiled once per instruction set."""

INT8 = (
    *("int8_pack.c", "int8_conv.c", "int8_depthwise.c", "int8_pool.c", "int8_steps.c"),
    "int8_cores.c",
)
"""The same; the last one a second time where there is an instruction for products of bytes."""

BASE = (
    *("check.c", "cpu.c", "stack.c", "codes.c", "externs.c", "weight.c"),
    *("region.c", "region_plan.c"),
)
"""Compiled once, for a CPU that may have none of them."""

SELDOM = ("cpu.c", "weight.c", "region.c", "region_plan.c", "bundle.c")
"""Of what is compiled once: what runs once for each model, input size or call, and may be small."""

OF_FAMILY = {"wasm": ("vec_wasm.h", "dot4_wasm.h", "tile_wasm.h", "depthwise_wasm.h")}
"""Headers that only the kernels of a family of targets include."""

NOT_TIMED = (
    *("steps.c", "extern.c", "experts.c", "experts_codes.c", "moe.c"),
    *("attention.c", "attention_rows.c"),
    *("attention_blocks.c", "attention_masses.c", "attention_choice.c"),
)
"""Of :data:`PER_ISA`: what no calibration table is of (they have attention of tokens in lanes)."""

CLANG_WIDE = ("-mprefer-vector-width=512",)
"""clang would otherwise split 64-byte vectors into halves on x86-64-v4."""


def read_sources(*folders: Path) -> dict[str, str]:
    """Text of all C files of the kernels and of more folders by name, the generated table too."""
    files = (file for folder in (HERE, *folders) for file in sorted(folder.glob("*.[ch]")))
    return {file.name: file.read_text(encoding="utf-8") for file in files} | {
        "sc_table.h": c_header()
    }


def timed_sources(isas: Sequence[str]) -> dict[str, str]:
    """What decides how fast the kernels of instruction sets are: the files compiled for them.

    The lists of step kinds and of regions, and what is compiled once for all, are not among it.
    """
    files = read_sources() | {"sc_table.h": c_header(isas, steps=False)}
    others = {
        name
        for family, names in OF_FAMILY.items()
        if not any(isa.startswith(family) for isa in isas)
        for name in names
    }
    timed = [name for name in (*PER_ISA, *INT8) if isas and name not in NOT_TIMED]
    return included({name: text for name, text in files.items() if name not in others}, *timed)


def isa_units(isas: Sequence[str], *, dot: bool = True) -> tuple[Unit, ...]:
    """Units of the kernels of instruction sets, without the base."""
    return tuple(unit for name in isas for unit in _of_isa(ISAS[name], dot=dot))


def _of_isa(isa: Isa, *, dot: bool) -> tuple[Unit, ...]:
    defines = (f"VB={isa.vector_bytes}", f"SC_SUFFIX={isa.suffix}")
    flags = CLANG_WIDE if isa.vector_bytes == 64 else ()
    own = tuple(Unit(source, isa.cpu, defines, flags) for source in PER_ISA)
    return own + int8_units(isa, dot=dot)


def chosen_units(
    isas: Sequence[str], kinds: Collection[str], largest_same: int
) -> tuple[Unit, ...]:
    """Units that take the place of their like in a library of one program, which has no ops.

    Args:
        isas: Instruction sets.
        kinds: The step kinds of :data:`STEPS` that the program has.
        largest_same: The side of the largest window, 3 or 5, that a depthwise layer of it has.
    """
    used = " ".join(f"X({kind})" for kind in STEPS if kind in kinds)
    defines = {
        "steps.c": f"SC_USED_STEPS(X)={used}",
        "depthwise_same.c": f"SC_LARGEST_SAME={largest_same}",
    }
    return tuple(
        dataclasses.replace(unit, defines=(*unit.defines, defines[unit.source]))
        for unit in isa_units(isas)
        if unit.source in defines
    )


def int8_units(isa: Isa, *, dot: bool = True) -> tuple[Unit, ...]:
    """Units of the int8 kernels; without ``dot`` only for CPUs that lack the instruction."""
    flags = CLANG_WIDE if isa.vector_bytes == 64 else ()
    size, fast = f"VB={isa.vector_bytes}", f"{isa.suffix}dot"
    plain = (size, f"SC_SUFFIX={isa.suffix}")
    if not (dot and isa.dot_cpu):
        return tuple(Unit(source, isa.cpu, plain, flags) for source in INT8)
    defines = (*plain, f"SC_DOT_SUFFIX={fast}")
    cores = Unit(INT8[-1], isa.dot_cpu, (size, f"SC_SUFFIX={fast}", "SC_DOT"), flags)
    return (*(Unit(source, isa.cpu, defines, flags) for source in INT8), cores)


def units(isas: Sequence[str], *more: str, dot: bool = True) -> tuple[Unit, ...]:
    """Units of a library with the variants ``isas`` and the base sources ``more`` beside.

    Without ``dot`` none of them uses an instruction for products of bytes.
    """
    has = tuple(f"SC_HAS_{ISAS[name].suffix.upper()}" for name in isas)
    base = tuple(
        Unit(source, defines=has, flags=("-Os",) if source in SELDOM else ())
        for source in (*BASE, *more)
    )
    return isa_units(isas, dot=dot) + base
