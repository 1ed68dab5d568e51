"""Instructions that kernels take beside their arithmetic: counted in the machine code they become.

A row is a kernel without its element type, and what one warp issues in one turn of its main loop,
all instructions of it, on sm_80 and sm_90, in float16. Counted with ``cuobjdump -sass``; paths for
inputs that are not aligned are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sparsecc.backends.cuda.kernel import DTYPES, Arch, Kernel

ARCHS: tuple[Arch, ...] = ("sm_80", "sm_90")
TURNS: Mapping[str, tuple[int, int]] = {
    "attention-d64-m64": (377, 305),
    "attention-d64-m128": (360, 551),
    "attention-d128-m64": (539, 401),
    "attention-d128-m128": (346, 363),
    "dense-t16": (121, 129),
    "dense-t64": (163, 140),
    "dense-t128": (159, 107),
    "columns-m16-lies": (117, 134),
    "columns-m16-few": (54, 50),
    "columns-m16-many": (126, 125),
    "columns-m64-lies": (126, 129),
    "columns-m64-few": (64, 73),
    "columns-m64-many": (120, 96),
    "bitmap-n8": (205, 205),
    "bitmap-n16": (190, 190),
    "bitmap-n32": (223, 223),
    "bitmap-n64": (235, 235),
    "two-of-four-n16": (74, 74),
    "two-of-four-n32": (91, 91),
    "two-of-four-n64": (105, 105),
    "two-of-four-n128": (105, 105),
    "codes-g16-t1": (230, 230),
    "codes-g16-t4": (543, 543),
    "codes-g16-t16": (663, 639),
    "codes-g16-t128": (654, 426),
    "codes-g32-t1": (211, 211),
    "codes-g32-t4": (502, 505),
    "codes-g32-t16": (522, 505),
    "codes-g32-t128": (586, 362),
    "codes-g128-t1": (239, 239),
    "codes-g128-t4": (508, 507),
    "codes-g128-t16": (466, 446),
    "codes-g128-t128": (560, 330),
    "experts-up-m16": (85, 84),
    "experts-up-m64": (140, 85),
    "experts-up-m128": (124, 89),
    "experts-gated-m16": (130, 125),
    "experts-gated-m64": (186, 95),
    "experts-gated-m128": (130, 97),
    "experts-down-m16": (86, 84),
    "experts-down-m64": (140, 85),
    "experts-down-m128": (128, 87),
}
_TYPE = re.compile(f"-({'|'.join(DTYPES.values())})(?=-|$)")
_SAME = ("-half", "-ordered")
"""End the names of kernels that take as many as those without."""


def turn(kernel: Kernel, arch: Arch) -> int:
    """Instructions of a warp in one turn of the main loop of a kernel."""
    name = _TYPE.sub("", kernel.name)
    for end in _SAME:
        name = name.removesuffix(end)
    return TURNS[name][ARCHS.index(arch)]
