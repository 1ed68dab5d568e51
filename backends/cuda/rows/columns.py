"""Rows of kernels for columns that tiles of rows keep."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from sparsecc.backends.cuda.kernel import DTYPES, Arch, Kernel, Launch

_LAUNCHES: Mapping[tuple[int, str], Mapping[Arch, tuple[int, int, int, int]]] = {
    # rows of a tile, kind → warps, stages, registers, shared
    (16, "lies"): {"sm_80": (4, 4, 56, 8192), "sm_90": (4, 4, 40, 8192)},
    (16, "few"): {"sm_80": (4, 4, 48, 12288), "sm_90": (4, 4, 40, 12288)},
    (16, "many"): {"sm_80": (4, 4, 96, 55296), "sm_90": (4, 4, 96, 55296)},
    (64, "lies"): {"sm_80": (4, 4, 72, 26624), "sm_90": (4, 4, 48, 34816)},
    (64, "few"): {"sm_80": (4, 4, 56, 30720), "sm_90": (4, 4, 48, 40960)},
    (64, "many"): {"sm_80": (8, 3, 218, 49152), "sm_90": (8, 4, 216, 98304)},
}
_TOKENS: Mapping[str, int] = {"lies": 16, "few": 16, "many": 128}
STEP = 64
"""Columns of one turn of the loop; what tiles store is a multiple."""


def columns_name(dtype: str, rows: int, kind: str) -> str:
    """Name of the kernel of an element type and tile: X as it ``lies``, ``few`` or ``many``."""
    return f"columns-{DTYPES[dtype]}-m{rows}-{kind}"


def _arguments(dtype: str, kind: str) -> dict[str, str]:
    strides = ("i32", "i32") if kind == "lies" else ("i32:16", "i32")
    return {
        **dict.fromkeys(("X", "Values"), f"*{dtype}"),
        "Columns": "*u16",
        **dict.fromkeys(("Starts", "Order"), "*i32"),
        "Out": f"*{dtype}",
        "Parts": "*fp32",
        **dict(zip(("x_column", "x_token"), strides, strict=True)),
        **dict.fromkeys(("tokens", "rows", "splits"), "i32"),
    }


COLUMNS: tuple[Kernel, ...] = tuple(
    Kernel(
        name=columns_name(dtype, rows, kind),
        module="columns",
        function="multiply",
        arguments=_arguments(DTYPES[dtype], kind),
        constants={
            "ROWS": rows,
            "TOKENS": _TOKENS[kind],
            "STEP": STEP,
            "TURNED": int(kind != "lies"),
        },
        launches={arch: Launch({}, *how) for arch, how in launches.items()},
    )
    for dtype, ((rows, kind), launches) in itertools.product(DTYPES, _LAUNCHES.items())
)
"""Products with columns that are kept by tiles of rows."""
