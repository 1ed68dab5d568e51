"""Rows of what goes before and after products: inputs turned, parts added up."""

from __future__ import annotations

from sparsecc.backends.cuda.kernel import DTYPES, Kernel, Launch


def turn_name(dtype: str) -> str:
    """Name of the kernel that turns inputs of an element type."""
    return f"turn-{DTYPES[dtype]}"


def add_name(dtype: str) -> str:
    """Name of the kernel that adds float32 parts into outputs of an element type."""
    return f"add-{DTYPES[dtype]}"


TURN: tuple[Kernel, ...] = tuple(
    Kernel(
        name=turn_name(dtype),
        module="parts",
        function="turn",
        arguments={
            **dict.fromkeys(("X", "Turned"), f"*{DTYPES[dtype]}"),
            **dict.fromkeys(("tokens", "columns"), "i32"),
            "padded": "i32:16",
        },
        constants={"TOKENS": 16, "COLUMNS": 128},
        launches={"sm_80": Launch({}, 4, 1, 32, 4096), "sm_90": Launch({}, 4, 1, 34, 4096)},
    )
    for dtype in DTYPES
)
"""Inputs turned."""

ADD: tuple[Kernel, ...] = tuple(
    Kernel(
        name=add_name(dtype),
        module="parts",
        function="add",
        arguments={"Parts": "*fp32", "Out": f"*{DTYPES[dtype]}", "count": "i64", "splits": "i32"},
        constants={"COUNT": 256},
        launches={"sm_80": Launch({}, 4, 1, 24, 0), "sm_90": Launch({}, 4, 1, 24, 0)},
    )
    for dtype in DTYPES
)
"""Parts added up."""
