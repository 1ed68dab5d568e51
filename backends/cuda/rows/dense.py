"""Rows of kernels for weights without zeros."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from sparsecc.backends.cuda.kernel import DTYPES, Arch, Kernel, Launch

_LAUNCHES: Mapping[int, tuple[int, int, Mapping[Arch, tuple[int, int, int, int]]]] = {
    # tokens of a tile → rows of a tile, columns of a turn, architecture → warps, stages,
    # registers, shared
    16: (64, 128, {"sm_80": (4, 4, 80, 61440), "sm_90": (4, 4, 64, 81920)}),
    64: (128, 64, {"sm_80": (4, 4, 180, 73728), "sm_90": (4, 4, 196, 98304)}),
    128: (128, 64, {"sm_80": (8, 4, 222, 98304), "sm_90": (8, 4, 209, 131072)}),
}
TILES = tuple(_LAUNCHES)
"""Tokens of a tile."""
MULTIPLE = 128
"""Columns are stored up to a multiple, which is one of every turn."""


def dense_name(dtype: str, tokens: int) -> str:
    """Name of the kernel of an element type and tokens of a tile."""
    return f"dense-{DTYPES[dtype]}-t{tokens}"


DENSE: tuple[Kernel, ...] = tuple(
    Kernel(
        name=dense_name(dtype, tokens),
        module="dense",
        function="multiply",
        arguments={
            **dict.fromkeys(("X", "Weight", "Out"), f"*{DTYPES[dtype]}"),
            "Parts": "*fp32",
            **dict.fromkeys(("tokens", "rows"), "i32"),
            "columns": "i32:16",
            "splits": "i32",
        },
        constants={"ROWS": rows, "TOKENS": tokens, "STEP": step, "MULTIPLE": MULTIPLE, "GROUP": 8},
        launches={arch: Launch({}, *how) for arch, how in launches.items()},
    )
    for dtype, (tokens, (rows, step, launches)) in itertools.product(DTYPES, _LAUNCHES.items())
)
"""Products with weights without zeros."""
