"""Rows of attention kernels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from sparsecc.backends.cuda.kernel import ALIGNED, DTYPES, Arch, Kernel, Launch

_STRIDES = tuple(f"{of}_{axis}" for of in "qkvo" for axis in ("batch", "head", "token"))
_SIZES = ("queries", "keys", "heads", "group", "tiles", "pattern_heads", "grain")
_RULE = ("left", "right", "sinks")
_INDICES = ("Order", "Rows", "Full", "Columns", "Bits", "Places")


def _attention_arguments(dtype: str) -> dict[str, str]:
    return {
        **dict.fromkeys(("Q", "K", "V", "Out"), f"*{dtype}"),
        "Lse": "*fp32",
        **dict.fromkeys(_INDICES, "*i32"),
        **dict.fromkeys(_STRIDES, f"i32{ALIGNED}"),
        **dict.fromkeys((*_SIZES, *_RULE), "i32"),
        "scale": "fp32",
    }


_ATTENTION: Mapping[tuple[int, int, bool], Mapping[Arch, tuple[int, int, int, int, int]]] = {
    # features, queries of a tile, ordered → keys of a tile, warps, stages, registers, shared
    (64, 64, False): {"sm_80": (64, 4, 3, 185, 40968), "sm_90": (64, 4, 3, 160, 57352)},
    (64, 128, False): {"sm_80": (64, 8, 3, 190, 49160), "sm_90": (64, 4, 2, 252, 49156)},
    (64, 128, True): {"sm_80": (64, 8, 3, 195, 33284), "sm_90": (64, 4, 2, 255, 49156)},
    (128, 64, False): {"sm_80": (32, 4, 3, 241, 53256), "sm_90": (64, 4, 2, 213, 81924)},
    (128, 128, False): {"sm_80": (32, 8, 3, 202, 65544), "sm_90": (64, 8, 3, 213, 131080)},
    (128, 128, True): {"sm_80": (32, 8, 3, 203, 49412), "sm_90": (64, 8, 3, 221, 98820)},
}


def attention_name(dtype: str, features: int, rows: int, ordered: bool) -> str:
    """Name of the attention of an element type, features of a head and queries of a tile."""
    return f"attention-{DTYPES[dtype]}-d{features}-m{rows}{'-ordered' * ordered}"


ATTENTION: tuple[Kernel, ...] = tuple(
    Kernel(
        name=attention_name(dtype, features, rows, ordered),
        module="attention",
        function="attend",
        arguments=_attention_arguments(DTYPES[dtype]),
        constants={"D": features, "ROWS": rows, "ORDERED": int(ordered)},
        launches={
            arch: Launch({"COLUMNS": columns}, *rest) for arch, (columns, *rest) in launches.items()
        },
    )
    for dtype, ((features, rows, ordered), launches) in itertools.product(
        DTYPES, _ATTENTION.items()
    )
)
"""Block-sparse attention."""
