"""The one table of kernels. C dispatch, the report, tests and benchmarks all read it.

A kernel is a micro-tile: ``mr`` output rows that share their non-zero columns, times up to ``nr``
vectors of pixels or tokens held in registers. A block of r rows is cut into the tallest tiles its
instruction set has, so every block shape runs; a few have a row of their own here because they are
the ones worth pruning to.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsecc.formats.blocks import Block
from sparsecc.ops import ACTIVATIONS, VARIANTS

ANY = 0
"""In a block of :data:`KERNELS`: any number of rows or columns."""


@dataclass(frozen=True)
class Isa:
    """One instruction set the kernels are built for.

    Attributes:
        name: As in ``Target.isas``.
        suffix: Ends the C symbols of this variant and names its ``SC_HAS_*`` macro.
        cpu: zig's ``-mcpu`` value.
        vector_bytes: Bytes of a vector register.
        tiles: ``{mr: nr}``: the widest tile that keeps its accumulators, one row of inputs and
            one weight in registers (16 of them on AVX2, 32 elsewhere).
    """

    name: str
    suffix: str
    cpu: str
    vector_bytes: int
    tiles: dict[int, int]

    @property
    def lanes(self) -> int:
        """float32 numbers in a vector."""
        return self.vector_bytes // 4


ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa("x86-64-v3", "v3", "x86_64_v3", 32, {1: 8, 2: 4, 4: 2}),
        Isa("x86-64-v4", "v4", "x86_64_v4", 64, {1: 8, 2: 6, 4: 6, 8: 3}),
        Isa("arm64-neon", "neon", "generic", 16, {1: 8, 2: 8, 4: 5, 8: 2}),
    )
}

OPS = ("conv", "matmul", "matvec")
"""Images; many tokens; a few tokens, whose time is that of reading the weights."""

BLOCKS: tuple[Block, ...] = (
    *((1, 1), (2, 1), (4, 1), (8, 1), (16, 1)),
    *((1, 4), (1, 8), (1, 16)),
    *((ANY, 1), (1, ANY), (ANY, ANY)),
)


@dataclass(frozen=True)
class KernelRow:
    """One kernel: what it computes and the tile it does it with.

    Attributes:
        op: One of :data:`OPS`.
        block: Rows and columns of a stored block; :data:`ANY` stands for every number.
        dtype: Element type of inputs, weights and sums.
        isa: Name of the instruction set.
        vector_bytes: Bytes of a vector register.
        mr: Output rows of a tile; the tallest used where a block is cut into several.
        nr: Most vectors of a tile; for ``matvec`` the most tokens.
    """

    op: str
    block: Block
    dtype: str
    isa: str
    vector_bytes: int
    mr: int
    nr: int

    @property
    def name(self) -> str:
        """Such as ``f32-conv-4x1-v4-4x6``: dtype, op, block, instruction set, tile."""
        r, c = ("N" if side == ANY else str(side) for side in self.block)
        return f"f32-{self.op}-{r}x{c}-{ISAS[self.isa].suffix}-{self.mr}x{self.nr}"


MATVEC_TOKENS = 4
"""Up to so many tokens the weights, not the tokens, fill the vectors."""


def _row(op: str, block: Block, isa: Isa) -> KernelRow:
    mr = max(m for m in isa.tiles if block[0] == ANY or m <= block[0])
    nr = MATVEC_TOKENS if op == "matvec" else isa.tiles[mr]
    return KernelRow(op, block, "float32", isa.name, isa.vector_bytes, mr, nr)


KERNELS: tuple[KernelRow, ...] = tuple(
    _row(op, block, isa) for isa in ISAS.values() for op in OPS for block in BLOCKS
)
_BY_KEY = {(row.op, row.block, row.isa): row for row in KERNELS}


def select(op: str, block: Block, isa: str) -> KernelRow:
    """The kernel that runs ``op`` on r×c blocks: its own row if it has one, else a general one.

    Args:
        op: One of :data:`OPS`.
        block: Rows and columns of a block, both at least one.
        isa: Name of an instruction set, as in ``Target.isas``.

    Raises:
        KeyError: No such op or instruction set.
    """
    r, c = block
    general = (ANY, 1) if c == 1 else (1, ANY) if r == 1 else (ANY, ANY)
    key = (op, block, isa)
    return _BY_KEY[key if key in _BY_KEY else (op, general, isa)]


def _tile_macros(isa: Isa) -> list[str]:
    widest = " ".join(f"X({mr}, {nr})" for mr, nr in isa.tiles.items())
    tiles = " ".join(f"X({mr}, {n + 1})" for mr, nr in isa.tiles.items() for n in range(nr))
    return [
        f"#if defined(VB) && VB == {isa.vector_bytes}",
        f"#define SC_MAX_MR {max(isa.tiles)}",
        f"#define SC_MAX_NR {max(isa.tiles.values())}",
        f"#define SC_WIDEST(X) {widest}",
        f"#define SC_TILES(X) {tiles}",
        "#endif",
    ]


def _op_macro() -> str:
    ops = (
        f'X("{name}", {int(v.base == "SparseConv")}, {int(v.residual)}, SC_{v.activation.upper()})'
        for name, v in VARIANTS.items()
    )
    return f"#define SC_OPS(X) {' '.join(ops)}"


def c_header() -> str:
    """``sc_table.h``: activations, op variants and tiles, as the C sources include them."""
    codes = ", ".join(f"SC_{activation.name.upper()}" for activation in ACTIVATIONS)
    lines = [
        "/* Generated from sparsecc/backends/kernels/table.py. */",
        "#ifndef SC_TABLE_H",
        "#define SC_TABLE_H",
        f"enum {{ {codes}, SC_ACTIVATIONS }};",
        f"enum {{ SC_MATVEC_TOKENS = {MATVEC_TOKENS} }};",
        _op_macro(),
        *(line for isa in ISAS.values() for line in _tile_macros(isa)),
        "#endif",
    ]
    return "\n".join(lines) + "\n"
