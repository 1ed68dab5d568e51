"""Rows of kernels for weights as codes of four bits: groups that are kept, and all of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from sparsecc.backends.cuda.kernel import ALIGNED, DTYPES, Arch, Kernel, Launch

GROUPS = (16, 32)
"""Inputs of groups that are kept or not."""
GROUP_OF_ALL = 128
"""Inputs of a group where all are kept."""
SLOTS, LANES = 4, 32
"""Rows, or pieces of one, that a program computes, a warp each, and threads of a warp."""
ROWS, STEP = 64, 128
"""Rows and columns of a tile that is made from codes for tensor cores."""
FEW = 4
"""Up to so many tokens are multiplied without tensor cores: by instructions, not measured yet."""
_LAUNCHES: Mapping[tuple[int, int], Mapping[Arch, tuple[int, int, int, int]]] = {
    # inputs of a group, tokens of a program → warps, stages, registers, shared
    (16, 1): {"sm_80": (4, 1, 55, 16), "sm_90": (4, 1, 48, 16)},
    (16, 4): {"sm_80": (4, 1, 95, 16), "sm_90": (4, 1, 96, 16)},
    (16, 16): {"sm_80": (4, 3, 128, 31232), "sm_90": (4, 3, 128, 27136)},
    (16, 128): {"sm_80": (8, 3, 242, 59904), "sm_90": (8, 3, 186, 84480)},
    (32, 1): {"sm_80": (4, 1, 56, 16), "sm_90": (4, 1, 55, 16)},
    (32, 4): {"sm_80": (4, 1, 128, 16), "sm_90": (4, 1, 128, 16)},
    (32, 16): {"sm_80": (4, 3, 128, 26112), "sm_90": (4, 3, 128, 17920)},
    (32, 128): {"sm_80": (8, 3, 239, 54784), "sm_90": (8, 3, 220, 75264)},
    (128, 1): {"sm_80": (4, 1, 48, 8), "sm_90": (4, 1, 48, 8)},
    (128, 4): {"sm_80": (4, 1, 126, 8), "sm_90": (4, 1, 127, 8)},
    (128, 16): {"sm_80": (4, 3, 128, 34816), "sm_90": (4, 3, 128, 26624)},
    (128, 128): {"sm_80": (8, 3, 234, 92160), "sm_90": (8, 3, 216, 112640)},
}
_COUNTS = sorted({tokens for _, tokens in _LAUNCHES})


def tokens_of(tokens: int) -> int:
    """How many tokens a program computes where there are so many."""
    return next((most for most in _COUNTS if tokens <= most), _COUNTS[-1])


def codes_name(dtype: str, group: int, tokens: int) -> str:
    """Name of the kernel for groups of so many inputs, and tokens of a program."""
    return f"codes-{DTYPES[dtype]}-g{group}-t{tokens}"


def _kernel(dtype: str, group: int, tokens: int) -> Kernel:
    every, few = group == GROUP_OF_ALL, tokens <= FEW
    if few:
        indices = () if every else ("Starts", "Rows")
        constants = {"SLOTS": SLOTS, "LANES": LANES}
    else:
        indices = ("Firsts", "Places")
        constants = {"KEPT": int(not every), "ROWS": ROWS, "STEP": STEP}
    arguments = {
        "X": f"*{DTYPES[dtype]}",
        **dict.fromkeys(("Codes", "Words", *indices), "*i32"),
        "Out": f"*{DTYPES[dtype]}",
        **({} if few else {"Parts": "*fp32"}),
        "tokens": "i32",
        "rows": "i32",
        "columns": f"i32{ALIGNED}",
        **({} if few else {"splits": "i32"}),
    }
    return Kernel(
        name=codes_name(dtype, group, tokens),
        module="groups" if few else "code_tiles",
        function=("every" if every else "kept") if few else "multiply",
        arguments=arguments,
        constants={"GROUP": group, "TOKENS": tokens, **constants},
        launches={arch: Launch({}, *how) for arch, how in _LAUNCHES[group, tokens].items()},
    )


GROUP_KERNELS: tuple[Kernel, ...] = tuple(
    _kernel(dtype, group, tokens) for dtype, (group, tokens) in itertools.product(DTYPES, _LAUNCHES)
)
"""Products with codes of four bits."""
