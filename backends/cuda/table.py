"""The one table of GPU kernels. Builds, launches, tests and the benchmark all read it.

A kernel is one row: a Triton function of ``kernels/``, the types of its arguments, and for each
architecture the constants it is compiled with and what the compiler is known to make of that.
``python -m sparsecc.backends.cuda.build`` prints what it makes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from sparsecc.errors import TargetError

Arch = str
"""Compute capability as targets name it: ``sm_80``, ``sm_90``."""
ALIGNED = ":16"
"""Ends the type of a number that is a multiple of 16; pointers always are."""
CONSTANT = "constexpr"
DTYPES: Mapping[str, str] = {"float16": "fp16", "bfloat16": "bf16"}
"""Element types of kernels: torch's name, and Triton's."""


@dataclass(frozen=True)
class Launch:
    """How a kernel is compiled and started on one architecture.

    Attributes:
        constants: Of the function's ``constexpr`` arguments, those of this architecture.
        warps: Of a program.
        stages: How many turns of a loop are in flight.
        registers: Of a thread, as built; no build may need more, or spill any.
        shared: Bytes of shared memory that a program asks for, as built.
    """

    constants: Mapping[str, int]
    warps: int
    stages: int
    registers: int
    shared: int


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Attributes:
        name: Unique.
        module: File of ``kernels/`` without its suffix.
        function: Name in it.
        arguments: Name → Triton's type of every argument that is no constant, in order; a number
            that ends in :data:`ALIGNED` is a multiple of 16.
        constants: ``constexpr`` arguments that are the same on every architecture.
        launches: Architecture → how it is compiled and started there.
    """

    name: str
    module: str
    function: str
    arguments: Mapping[str, str]
    constants: Mapping[str, int]
    launches: Mapping[Arch, Launch]

    def launch(self, arch: Arch) -> Launch:
        """How it is started on an architecture.

        Raises:
            TargetError: It is not built for that one.
        """
        if arch not in self.launches:
            raise TargetError(
                f"the kernel {self.name} is not built for {arch}",
                fix=f"use one of {', '.join(self.launches)}, or the dense operator",
            )
        return self.launches[arch]

    def constants_on(self, arch: Arch) -> dict[str, int]:
        """All constants there.

        Raises:
            TargetError: As :meth:`launch`.
        """
        return {**self.constants, **self.launch(arch).constants}


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


def _attentions() -> list[Kernel]:
    return [
        Kernel(
            name=attention_name(dtype, features, rows, ordered),
            module="attention",
            function="attend",
            arguments=_attention_arguments(DTYPES[dtype]),
            constants={"D": features, "ROWS": rows, "ORDERED": int(ordered)},
            launches={
                arch: Launch({"COLUMNS": columns}, *rest)
                for arch, (columns, *rest) in launches.items()
            },
        )
        for dtype, ((features, rows, ordered), launches) in itertools.product(
            DTYPES, _ATTENTION.items()
        )
    ]


KERNELS: Mapping[str, Kernel] = {kernel.name: kernel for kernel in _attentions()}
"""Every kernel by its name."""
