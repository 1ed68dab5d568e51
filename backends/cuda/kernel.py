"""What a row of the table of GPU kernels says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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
        constants: ``constexpr`` arguments that are the same on every architecture; macros of
            CUDA C++.
        launches: Architecture → how it is compiled and started there.
        language: What it is written in: Triton, or CUDA C++ (``module.cu``).
    """

    name: str
    module: str
    function: str
    arguments: Mapping[str, str]
    constants: Mapping[str, int]
    launches: Mapping[Arch, Launch]
    language: Literal["triton", "cuda"] = "triton"

    @property
    def symbol(self) -> str:
        """Name in the machine code: other than that of the function, no other row has it."""
        return self.name.replace("-", "_")

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
