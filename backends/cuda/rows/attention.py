"""Rows of attention kernels: the forward, and gradients of queries and of keys and values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from sparsecc.backends.cuda.kernel import ALIGNED, DTYPES, Arch, Kernel, Launch

FORWARD, QUERIES, KEYS = "", "queries", "keys"
"""Kernels of an attention: the forward, and those that make gradients of one or the other."""
STEP = 32
"""Queries of a tile that the kernel for keys takes at a time; with 64, most of its builds spill."""
_SIZES = ("queries", "keys", "heads", "group", "tiles", "pattern_heads", "grain")
_RULE = ("left", "right", "sinks")
_INDICES = ("Order", "Rows", "Full", "Columns", "Bits", "Places")


def stride_names(tensor: str) -> tuple[str, str, str]:
    """Names of the strides of an attention's tensor ``[batch, heads, tokens, features]``."""
    batch, head, token = (f"{tensor.lower()}_{axis}" for axis in ("batch", "head", "token"))
    return batch, head, token


def _attention_arguments(
    dtype: str, tokens: Sequence[str], sums: Sequence[str], numbers: Sequence[str] = ()
) -> dict[str, str]:
    strides = itertools.chain(*map(stride_names, tokens))
    return {
        **dict.fromkeys(tokens, f"*{dtype}"),
        **dict.fromkeys(sums, "*fp32"),
        **dict.fromkeys(_INDICES, "*i32"),
        **dict.fromkeys(strides, f"i32{ALIGNED}"),
        **dict.fromkeys((*_SIZES, *_RULE), "i32"),
        "scale": "fp32",
        **dict.fromkeys(numbers, "i32"),
    }


_Size = tuple[int, int, bool]
"""Features, queries of a tile, ordered."""
_COLUMNS: Mapping[int, Mapping[Arch, int]] = {
    64: {"sm_80": 64, "sm_90": 64},
    128: {"sm_80": 32, "sm_90": 64},
}
"""Features → keys of a tile; all kernels of an attention have the same tiles."""
_LAUNCHES: Mapping[str, Mapping[_Size, Mapping[Arch, tuple[int, int, int, int]]]] = {
    # of a pass: warps, stages, registers, shared
    FORWARD: {
        (64, 64, False): {"sm_80": (4, 3, 185, 40968), "sm_90": (4, 3, 160, 57352)},
        (64, 128, False): {"sm_80": (8, 3, 190, 49160), "sm_90": (4, 2, 252, 49156)},
        (64, 128, True): {"sm_80": (8, 3, 195, 33284), "sm_90": (4, 2, 255, 49156)},
        (128, 64, False): {"sm_80": (4, 3, 241, 53256), "sm_90": (4, 2, 213, 81924)},
        (128, 128, False): {"sm_80": (8, 3, 202, 65544), "sm_90": (8, 3, 213, 131080)},
        (128, 128, True): {"sm_80": (8, 3, 203, 49412), "sm_90": (8, 3, 221, 98820)},
    },
    QUERIES: {
        (64, 64, False): {"sm_80": (4, 3, 189, 49160), "sm_90": (4, 3, 166, 65544)},
        (64, 128, False): {"sm_80": (8, 3, 199, 65544), "sm_90": (8, 3, 166, 81928)},
        (64, 128, True): {"sm_80": (8, 2, 225, 49156), "sm_90": (8, 3, 165, 65796)},
        (128, 64, False): {"sm_80": (4, 3, 219, 69640), "sm_90": (4, 2, 251, 98308)},
        (128, 128, False): {"sm_80": (8, 3, 202, 98312), "sm_90": (8, 3, 214, 163848)},
        (128, 128, True): {"sm_80": (8, 3, 204, 82052), "sm_90": (8, 3, 207, 131332)},
    },
    KEYS: {
        (64, 64, False): {"sm_80": (4, 2, 182, 24836), "sm_90": (4, 3, 200, 41992)},
        (64, 128, False): {"sm_80": (4, 2, 182, 24836), "sm_90": (4, 3, 200, 41992)},
        (64, 128, True): {"sm_80": (4, 2, 184, 24836), "sm_90": (4, 3, 203, 33284)},
        (128, 64, False): {"sm_80": (4, 3, 187, 51720), "sm_90": (8, 3, 209, 82952)},
        (128, 128, False): {"sm_80": (4, 3, 187, 51720), "sm_90": (8, 3, 209, 82952)},
        (128, 128, True): {"sm_80": (4, 3, 230, 35332), "sm_90": (8, 3, 216, 66052)},
    },
}
_FUNCTIONS: Mapping[str, tuple[str, str, tuple[tuple[str, ...], ...]]] = {
    # of a pass: module, function, tensors of tokens, of sums, and numbers
    FORWARD: ("attention", "attend", (("Q", "K", "V", "Out"), ("Lse",))),
    QUERIES: (
        "attention_backward",
        "gradients_of_queries",
        (("Q", "K", "V", "Out", "Grad", "DQ"), ("Lse", "Delta")),
    ),
    KEYS: (
        "attention_backward",
        "gradients_of_keys",
        (("Q", "K", "V", "Grad", "DK", "DV"), ("Lse", "Delta"), ("together",)),
    ),
}


def attention_name(dtype: str, features: int, rows: int, ordered: bool, part: str = FORWARD) -> str:
    """Name of the attention of an element type, features of a head and queries of a tile.

    Args:
        dtype: As torch names it.
        features: Of a head.
        rows: Queries of a tile.
        ordered: Whether tiles are of another order of tokens.
        part: Which of its kernels.
    """
    size = f"{DTYPES[dtype]}-d{features}-m{rows}"
    return f"attention-{size}{'-ordered' * ordered}{part and '-'}{part}"


def _rows(part: str) -> Iterator[Kernel]:
    module, function, names = _FUNCTIONS[part]
    for dtype, (size, launches) in itertools.product(DTYPES, _LAUNCHES[part].items()):
        features, rows, ordered = size
        yield Kernel(
            name=attention_name(dtype, *size, part),
            module=module,
            function=function,
            arguments=_attention_arguments(DTYPES[dtype], *names),
            constants={"D": features, "ROWS": rows, "ORDERED": int(ordered)}
            | ({"STEP": STEP} if part == KEYS else {}),
            launches={
                arch: Launch({"COLUMNS": _COLUMNS[features][arch]}, *rest)
                for arch, rest in launches.items()
            },
        )


ATTENTION: tuple[Kernel, ...] = tuple(_rows(FORWARD))
"""Block-sparse attention."""
ATTENTION_BACKWARD: tuple[Kernel, ...] = (*_rows(QUERIES), *_rows(KEYS))
"""Its gradients."""


BLOCK = 64
"""Queries and keys of a block that a search weighs."""
SEARCH_ROWS = 128
"""Queries of a program of it."""
_SEARCHES: Mapping[int, Mapping[Arch, tuple[int, int, int, int]]] = {
    # features → warps, stages, registers, shared
    64: {"sm_80": (8, 3, 157, 33792), "sm_90": (8, 3, 117, 41984)},
    128: {"sm_80": (8, 3, 186, 66560), "sm_90": (8, 3, 128, 82944)},
}


def search_name(dtype: str, features: int) -> str:
    """Name of the search of an element type and features of a head."""
    return f"attention-search-{DTYPES[dtype]}-d{features}"


ATTENTION_SEARCH: tuple[Kernel, ...] = tuple(
    Kernel(
        name=search_name(dtype, features),
        module="attention_search",
        function="sum_blocks",
        arguments={
            **dict.fromkeys(("Q", "K"), f"*{DTYPES[dtype]}"),
            "Masses": "*fp32",
            **dict.fromkeys((*stride_names("Q"), *stride_names("K")), f"i32{ALIGNED}"),
            **dict.fromkeys(("queries", "keys", "heads", "group", "tiles"), "i32"),
            "scale": "fp32",
        },
        constants={"D": features, "ROWS": SEARCH_ROWS, "BLOCK": BLOCK},
        launches={arch: Launch({}, *rest) for arch, rest in launches.items()},
    )
    for dtype, (features, launches) in itertools.product(DTYPES, _SEARCHES.items())
)
"""Masses of blocks, by which attention finds what it keeps while a model samples."""
