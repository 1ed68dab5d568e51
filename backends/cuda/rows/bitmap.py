"""Rows of kernels for weights of bits and values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from sparsecc.backends.cuda.kernel import DTYPES, Arch, Kernel, Launch

ROWS = 16
"""Of a tile; each warp of a block has its own."""
COLUMNS = 64
WARPS = 4
_STAGES = 4
_MASK_BYTES = ROWS * COLUMNS // 8
_TILE_BYTES = _MASK_BYTES + 2 * ROWS * COLUMNS
_TABLE_BYTES = 8 * ROWS * COLUMNS // 32
TOKENS = (8, 16, 32, 64)
"""Of a block."""
_REGISTERS: Mapping[int, Mapping[Arch, int]] = {
    8: {"sm_80": 66, "sm_90": 68},
    16: {"sm_80": 77, "sm_90": 79},
    32: {"sm_80": 83, "sm_90": 88},
    64: {"sm_80": 110, "sm_90": 113},
}


def bitmap_name(dtype: str, tokens: int) -> str:
    """Name of the kernel of an element type and tokens of a block."""
    return f"bitmap-{DTYPES[dtype]}-n{tokens}"


def bitmap_shared(tokens: int, stages: int) -> int:
    """Bytes of shared memory of a block with so many tokens and turns under way."""
    stage = 2 * tokens * COLUMNS + WARPS * _TILE_BYTES
    return stages * stage + WARPS * _TABLE_BYTES


BITMAP: tuple[Kernel, ...] = tuple(
    Kernel(
        name=bitmap_name(dtype, tokens),
        module="bitmap",
        function="multiply",
        arguments={
            "X": f"*{DTYPES[dtype]}",
            **dict.fromkeys(("Stream", "Starts"), "*i32"),
            "Out": f"*{DTYPES[dtype]}",
            "Parts": "*fp32",
            **dict.fromkeys(("tokens", "rows", "columns", "splits"), "i32"),
        },
        constants={"TOKENS": tokens, "BFLOAT": int(dtype == "bfloat16"), "BLOCKS": 3},
        launches={
            arch: Launch({}, WARPS, _STAGES, registers, bitmap_shared(tokens, _STAGES))
            for arch, registers in needs.items()
        },
        language="cuda",
    )
    for dtype, (tokens, needs) in itertools.product(DTYPES, _REGISTERS.items())
)
"""Products with weights of bits and values."""
