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
_TABLE_BYTES = 8 * ROWS * COLUMNS // 32
TOKENS = (8, 16, 32, 64)
"""Of a block."""
VALUES = (ROWS * COLUMNS // 2, ROWS * COLUMNS)
"""Of a tile, at most: half leaves room for more blocks of a multiprocessor."""
_BLOCKS: Mapping[int, int] = {VALUES[0]: 4, VALUES[1]: 3}
"""Of a multiprocessor, that registers are kept for."""
_REGISTERS: Mapping[int, Mapping[Arch, int]] = {
    8: {"sm_80": 66, "sm_90": 68},
    16: {"sm_80": 77, "sm_90": 79},
    32: {"sm_80": 83, "sm_90": 88},
    64: {"sm_80": 110, "sm_90": 113},
}


def bitmap_name(dtype: str, tokens: int, values: int) -> str:
    """Name of the kernel of an element type, tokens of a block and most values of a tile."""
    return f"bitmap-{DTYPES[dtype]}-n{tokens}{'-half' * (values == VALUES[0])}"


def bitmap_shared(tokens: int, stages: int, values: int) -> int:
    """Bytes of shared memory of a block with so many turns under way; rest as the name."""
    stage = 2 * tokens * COLUMNS + WARPS * (_MASK_BYTES + 2 * values)
    return stages * stage + WARPS * _TABLE_BYTES


BITMAP: tuple[Kernel, ...] = tuple(
    Kernel(
        name=bitmap_name(dtype, tokens, values),
        module="bitmap",
        function="multiply",
        arguments={
            "X": f"*{DTYPES[dtype]}",
            **dict.fromkeys(("Stream", "Starts"), "*i32"),
            "Out": f"*{DTYPES[dtype]}",
            "Parts": "*fp32",
            **dict.fromkeys(("tokens", "rows", "columns", "splits"), "i32"),
        },
        constants={
            "BFLOAT": int(dtype == "bfloat16"),
            "TOKENS": tokens,
            "VALUES": values,
            "BLOCKS": _BLOCKS[values],
        },
        launches={
            arch: Launch({}, WARPS, _STAGES, registers, bitmap_shared(tokens, _STAGES, values))
            for arch, registers in needs.items()
        },
        language="cuda",
    )
    for dtype, (tokens, needs), values in itertools.product(DTYPES, _REGISTERS.items(), VALUES)
)
"""Products with weights of bits and values."""
