"""Rows of kernels for mixtures of experts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from sparsecc.backends.cuda.kernel import ALIGNED, DTYPES, Arch, Kernel, Launch

ROWS = (16, 64, 128)
"""Pairs of a token and a slot in a tile: the first for few tokens of an expert, as in decoding."""
_ROUTES: Mapping[int, Mapping[Arch, tuple[int, int]]] = {
    # most experts → registers, shared
    64: {"sm_80": (63, 4096), "sm_90": (52, 4096)},
    256: {"sm_80": (64, 4096), "sm_90": (56, 4096)},
    1024: {"sm_80": (128, 4096), "sm_90": (72, 4096)},
}
_GROUP = 8
"""Tiles that go through the columns of weights together. Not measured yet."""
_NUMBER = f"i32{ALIGNED}"
_TILES = dict.fromkeys(("Order", "Tiles", "Count"), "*i32")
_PRODUCTS: Mapping[tuple[str, int], Mapping[Arch, tuple[int, int, int, int, int, int]]] = {
    # product, rows of a tile → columns, depth, warps, stages, registers, shared
    ("up", 16): {"sm_80": (64, 128, 4, 4, 72, 61440), "sm_90": (64, 128, 4, 4, 64, 61440)},
    ("up", 64): {"sm_80": (128, 64, 4, 4, 168, 73728), "sm_90": (128, 64, 4, 4, 128, 98304)},
    ("up", 128): {"sm_80": (128, 32, 4, 4, 255, 49152), "sm_90": (256, 64, 8, 3, 255, 147456)},
    ("gated", 16): {"sm_80": (64, 128, 4, 3, 100, 73728), "sm_90": (64, 128, 4, 3, 96, 73728)},
    ("gated", 64): {"sm_80": (64, 64, 4, 4, 126, 73728), "sm_90": (64, 64, 4, 4, 126, 98304)},
    ("gated", 128): {"sm_80": (64, 32, 4, 4, 254, 49152), "sm_90": (128, 64, 8, 3, 236, 147456)},
    ("down", 16): {"sm_80": (64, 128, 4, 4, 80, 61440), "sm_90": (64, 128, 4, 4, 72, 61440)},
    ("down", 64): {"sm_80": (128, 64, 4, 4, 216, 73728), "sm_90": (128, 64, 4, 4, 168, 98304)},
    ("down", 128): {"sm_80": (128, 32, 4, 4, 248, 49152), "sm_90": (256, 64, 8, 3, 255, 147456)},
}
BINS = tuple(_ROUTES)
"""Most experts of each kernel that sorts; counting takes longer where there may be more."""


def route_name(bins: int) -> str:
    """Name of the kernel that sorts pairs by up to so many experts."""
    return f"experts-route-e{bins}"


def product_name(product: str, dtype: str, rows: int) -> str:
    """Name of the kernel of ``up``, ``gated`` (up and gate) or ``down`` for tiles of so many."""
    return f"experts-{product}-{DTYPES[dtype]}-m{rows}"


def combine_name(dtype: str) -> str:
    """Name of the kernel that sums up what the experts of a token made."""
    return f"experts-combine-{DTYPES[dtype]}"


def _up_arguments(dtype: str) -> dict[str, str]:
    return {
        **dict.fromkeys(("X", "Up", "Gate", "UpBias", "GateBias"), f"*{dtype}"),
        **_TILES,
        "Hidden": f"*{dtype}",
        "slots": "i32",
        **dict.fromkeys(("features", "inner"), _NUMBER),
        **dict.fromkeys(("activation", "biased"), "i32"),
    }


def _down_arguments(dtype: str) -> dict[str, str]:
    return {
        **dict.fromkeys(("Hidden", "Down", "DownBias"), f"*{dtype}"),
        "Gates": "*fp32",
        **_TILES,
        "Parts": "*fp32",
        "pairs": "i32",
        **dict.fromkeys(("inner", "features", "span"), _NUMBER),
        "biased": "i32",
    }


def _product(product: str, dtype: str, rows: int) -> Kernel:
    down = product == "down"
    return Kernel(
        name=product_name(product, dtype, rows),
        module="experts",
        function="down" if down else "up",
        arguments=(_down_arguments if down else _up_arguments)(DTYPES[dtype]),
        constants={"ROWS": rows, "GROUP": _GROUP}
        | ({} if down else {"GATED": int(product == "gated")}),
        launches={
            arch: Launch({"COLUMNS": columns, "DEPTH": depth}, *rest)
            for arch, (columns, depth, *rest) in _PRODUCTS[product, rows].items()
        },
    )


ROUTES: tuple[Kernel, ...] = tuple(
    Kernel(
        name=route_name(bins),
        module="experts",
        function="route",
        arguments={
            "Experts": "*i64",
            **_TILES,
            **dict.fromkeys(("pairs", "experts", "rows"), "i32"),
        },
        constants={"BINS": bins},
        launches={arch: Launch({}, 4, 1, *how) for arch, how in launches.items()},
    )
    for bins, launches in _ROUTES.items()
)
PRODUCTS: tuple[Kernel, ...] = tuple(
    _product(product, dtype, rows)
    for dtype, (product, rows) in itertools.product(DTYPES, _PRODUCTS)
)
COMBINES: tuple[Kernel, ...] = tuple(
    Kernel(
        name=combine_name(dtype),
        module="experts",
        function="combine",
        arguments={
            "Parts": "*fp32",
            "Experts": "*i64",
            "Out": f"*{DTYPES[dtype]}",
            **dict.fromkeys(("pairs", "slots", "parts"), "i32"),
            "features": _NUMBER,
            "experts": "i32",
        },
        constants={"BLOCK": 1024},
        launches=dict.fromkeys(("sm_80", "sm_90"), Launch({}, 4, 1, 32, 0)),
    )
    for dtype in DTYPES
)
EXPERTS: tuple[Kernel, ...] = (*ROUTES, *PRODUCTS, *COMBINES)
"""Mixtures of experts."""
