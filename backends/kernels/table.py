"""The one table of kernels. C dispatch, the report, tests and benchmarks all read it.

A kernel is a micro-tile: ``mr`` output rows that share their non-zero columns, times up to ``nr``
vectors of pixels or tokens held in registers. A block of r rows is cut into the tallest tiles its
instruction set has, so every block shape runs; a few have a row of their own here because they are
the ones worth pruning to.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from sparsecc.backends.codegen.outer_product import EVERY, KINDS, LANES, ROWS, WINDOW
from sparsecc.cost.roofline import GENERATED_ISA
from sparsecc.formats.blocks import Block
from sparsecc.ops import ACTIVATIONS, VARIANTS
from sparsecc.targets.base import TRIPLES, Family

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
        dot_cpu: ``cpu`` with the instruction that sums products of four bytes; empty when there is
            none. A library looks for it at run time.
        tiles: ``{mr: nr}``: the widest tile that keeps its accumulators, one row of inputs and
            its weights in registers (16 of them on AVX2 and WebAssembly, 32 elsewhere): on NEON
            one for four rows, elsewhere one.
        when: What the compiler predefines for it, among those of the same vector length.
    """

    name: str
    suffix: str
    cpu: str
    vector_bytes: int
    dot_cpu: str
    tiles: dict[int, int]
    when: str = "1"

    @property
    def lanes(self) -> int:
        """float32 numbers in a vector."""
        return self.vector_bytes // 4

    @property
    def family(self) -> Family:
        """Of the targets it is of."""
        return next(family for family in TRIPLES if self.name.startswith(family))

    @property
    def triple(self) -> str:
        """Target triple of zig for its kernels alone."""
        return TRIPLES[self.family][0]


ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa("x86-64-v3", "v3", "x86_64_v3", 32, "", {1: 8, 2: 4, 4: 2}),
        Isa("x86-64-v4", "v4", "x86_64_v4", 64, "x86_64_v4+avx512vnni", {1: 8, 2: 6, 4: 6, 8: 3}),
        Isa(
            *("arm64-neon", "neon", "generic", 16, "generic+dotprod"),
            {1: 8, 2: 8, 4: 6, 8: 3},
            "defined(__aarch64__)",
        ),
        Isa(
            *("wasm-simd128", "wasm", "lime1+simd128", 16, ""),
            {1: 8, 2: 4, 4: 2},
            "defined(__wasm__) && !defined(__wasm_relaxed_simd__)",
        ),
        Isa(
            *("wasm-relaxed", "relaxed", "lime1+simd128+relaxed_simd", 16, ""),
            {1: 8, 2: 4, 4: 2},
            "defined(__wasm_relaxed_simd__)",
        ),
    )
}

STEPS: tuple[str, ...] = (
    *("conv", "chain", "matmul", "pool", "mean", "scale", "flatten", "add", "activation"),
    *("matmul16", "attention", "attention_blocks", "layer_norm", "softmax", "select", "patches"),
    "moe",
    *("to_t64", "from_t64"),
    *("int8_conv", "int8_depthwise", "int8_maxpool", "int8_add", "int8_mean"),
    *("int8_quantize", "int8_dequantize"),
    "extern",
)
"""Step kinds of regions: a program names them by their position here."""

TYPES = ("float32", "int32", "int64", "uint8", "int8")
"""Element types of values and constants, in the order of ``region.h``; a boolean is a byte."""
RANK = 6
"""Most dimensions of theirs."""

REGIONS = 128
"""Most regions of a model: the library has an op for each, which a session takes a twentieth of a
millisecond to read."""

REGION_VALUES = 64
"""Most values a region reads, and most it makes for others."""

CHAIN_STAGES = 64
"""Most convolutions that follow each other in one step, a chain."""
CHAIN_BESIDE = 1000
"""From here on the residual of a chain's layer is an input of the step beside the first one."""
CHAIN_INPUTS = 8
"""Most inputs of a chain beside the first."""

TOKENS_IN_LANES = 64
"""Tokens of a piece of layout T64."""
LEAST_FEATURES = 16
"""Of a token there, at least."""

EXPERT_ROWS = 16
"""Rows of a chunk of an expert's weights: a block's rows divide it."""

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
        generated: Machine code made for each weight (``backends/codegen/outer_product.py``).
    """

    op: str
    block: Block
    dtype: str
    isa: str
    vector_bytes: int
    mr: int
    nr: int
    generated: bool = False

    @property
    def name(self) -> str:
        """Such as ``f32-conv-4x1-v4-4x6``: dtype, op, block, instruction set, tile."""
        r, c = ("N" if side == ANY else str(side) for side in self.block)
        code = "-code" if self.generated else ""
        return f"f32-{self.op}-{r}x{c}-{ISAS[self.isa].suffix}-{self.mr}x{self.nr}{code}"


MATVEC_TOKENS = 4
"""Up to so many tokens the weights, not the tokens, fill the vectors."""


def _row(op: str, block: Block, isa: Isa) -> KernelRow:
    mr = max(m for m in isa.tiles if block[0] == ANY or m <= block[0])
    nr = MATVEC_TOKENS if op == "matvec" else isa.tiles[mr]
    return KernelRow(op, block, "float32", isa.name, isa.vector_bytes, mr, nr)


GENERATED: tuple[KernelRow, ...] = tuple(
    KernelRow(op, (1, 1), "float32", GENERATED_ISA, 4 * LANES, ROWS, 1, generated=True)
    for op in ("conv", "matmul")
)
"""For weights without groups whose code is in the library; the other rows serve the rest."""

KERNELS: tuple[KernelRow, ...] = (
    *(_row(op, block, isa) for isa in ISAS.values() for op in OPS for block in BLOCKS),
    *GENERATED,
)
_BY_KEY = {(row.op, row.block, row.isa): row for row in KERNELS if not row.generated}


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
        f"#if defined(VB) && VB == {isa.vector_bytes} && {isa.when}",
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


def steps_key() -> int:
    """Changes with :data:`STEPS`: programs of another table are refused."""
    return zlib.crc32(" ".join(STEPS).encode())


def _step_macros() -> list[str]:
    return [
        f"enum {{ SC_STEP_KINDS = {len(STEPS)} }};",
        f"enum {{ SC_EXPERT_ROWS = {EXPERT_ROWS} }};",
        f"#define SC_STEPS_KEY {steps_key()}LL",
        f"#define SC_STEPS(X) {' '.join(f'X({kind})' for kind in STEPS)}",
        "#define SC_REGION_NAMES(X) " + " ".join(f'X("Region{n}")' for n in range(REGIONS)),
    ]


def c_header(isas: Iterable[str] = ISAS, *, steps: bool = True) -> str:
    """``sc_table.h``: activations, op variants, tiles and steps, as the C sources include them.

    Args:
        isas: Whose tiles.
        steps: Whether the lists of step kinds and of regions are in it.
    """
    codes = ", ".join(f"SC_{activation.name.upper()}" for activation in ACTIVATIONS)
    lines = [
        "/* Generated from sparsecc/backends/kernels/table.py. */",
        "#ifndef SC_TABLE_H",
        "#define SC_TABLE_H",
        f"enum {{ {codes}, SC_ACTIVATIONS }};",
        f"enum {{ SC_MATVEC_TOKENS = {MATVEC_TOKENS} }};",
        f"enum {{ SC_STRIP_ROWS = {ROWS}, SC_STRIP_LANES = {LANES} }};",
        f"enum {{ SC_STRIP_AHEAD = {WINDOW // 2} }};",
        f"enum {{ SC_FETCH_EVERY = {EVERY}, SC_FETCH_KINDS = {KINDS} }};",
        f"enum {{ T64 = {TOKENS_IN_LANES}, T64_LEAST_FEATURES = {LEAST_FEATURES} }};",
        f"enum {{ SC_CHAIN_STAGES = {CHAIN_STAGES}, SC_CHAIN_BESIDE = {CHAIN_BESIDE} }};",
        f"enum {{ SC_CHAIN_INPUTS = {CHAIN_INPUTS} }};",
        f"enum {{ SC_REGION_VALUES = {REGION_VALUES} }};",
        _op_macro(),
        *(line for name in isas for line in _tile_macros(ISAS[name])),
        *(_step_macros() if steps else ()),
        "#endif",
    ]
    return "\n".join(lines) + "\n"
