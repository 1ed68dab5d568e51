"""Rows of kernels for weights of which two of four are kept."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from sparsecc.backends.cuda.kernel import DTYPES, Arch, Kernel, Launch

DEPTH = 64
"""Columns of one turn; what is packed is a multiple."""
TALL = 128
"""Rows of a block."""
_TILES: Mapping[int, tuple[int, int, int, int, Mapping[Arch, int]]] = {
    # tokens → warps, of them down, stages, blocks of a multiprocessor, registers
    16: (4, 4, 4, 3, {"sm_80": 67, "sm_90": 67}),
    32: (4, 4, 4, 3, {"sm_80": 91, "sm_90": 88}),
    64: (4, 4, 4, 2, {"sm_80": 137, "sm_90": 137}),
    128: (8, 2, 3, 2, {"sm_80": 124, "sm_90": 124}),
}
TOKENS = tuple(_TILES)
"""Of a block."""


def two_of_four_name(dtype: str, tokens: int) -> str:
    """Name of the kernel of an element type and tokens of a block."""
    return f"two-of-four-{DTYPES[dtype]}-n{tokens}"


def two_of_four_shared(tokens: int, stages: int) -> int:
    """Bytes of shared memory of a block with so many tokens and turns under way."""
    values, bits = TALL * DEPTH, TALL * DEPTH // 8
    return stages * (values + bits + 2 * tokens * DEPTH)


TWO_OF_FOUR: tuple[Kernel, ...] = tuple(
    Kernel(
        name=two_of_four_name(dtype, tokens),
        module="two_of_four",
        function="multiply",
        arguments={
            **dict.fromkeys(("X", "Values"), f"*{DTYPES[dtype]}"),
            "Bits": "*i32",
            "Out": f"*{DTYPES[dtype]}",
            "Parts": "*fp32",
            **dict.fromkeys(("tokens", "rows", "columns", "splits"), "i32"),
        },
        constants={
            "BFLOAT": int(dtype == "bfloat16"),
            "TALL": TALL,
            "TOKENS": tokens,
            "DOWN": down,
            "BLOCKS": blocks,
        },
        launches={
            arch: Launch({}, warps, stages, registers, two_of_four_shared(tokens, stages))
            for arch, registers in needs.items()
        },
        language="cuda",
    )
    for dtype, (tokens, (warps, down, stages, blocks, needs)) in itertools.product(
        DTYPES, _TILES.items()
    )
)
"""Products on sparse tensor cores."""
