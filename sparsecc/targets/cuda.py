"""NVIDIA GPUs by compute capability, from the data sheets of A100 (80 GB) and H100 (SXM)."""

import dataclasses
import re
from collections.abc import Mapping

from sparsecc.errors import TargetError
from sparsecc.targets.base import Target

CUDA_SM_80 = Target(
    name="cuda-sm_80",
    family="cuda",
    triple="",
    isas=(),
    lanes=32,
    fma_ports=2.0,
    registers=255,
    ghz=1.41,
    threads=108,
    caches=(192 << 10, 40 << 20),
    bandwidths=(19_000.0, 5_000.0, 2_039.0),
    int8_gain=32.0,
    tensor_tflops=312.0,
    backend="tvm",
)
CUDA_SM_90 = dataclasses.replace(
    CUDA_SM_80,
    name="cuda-sm_90",
    fma_ports=4.0,
    ghz=1.83,
    threads=132,
    caches=(256 << 10, 50 << 20),
    bandwidths=(31_000.0, 7_000.0, 3_352.0),
    tensor_tflops=989.0,
)


@dataclasses.dataclass(frozen=True)
class Multiprocessor:
    """What the programs on one streaming multiprocessor share.

    From the table "technical specifications per compute capability" of the CUDA C++ programming
    guide; look-ups as NVIDIA's forum says for Volta and later (forums.developer.nvidia.com,
    "Understanding L1/TEX Cache Sectors/Req").

    Attributes:
        registers: Of 32 bits, of all threads; a warp's come in units of ``register_unit``.
        register_unit: Registers of a warp are a multiple of it.
        shared: Bytes of shared memory.
        shared_kept: Bytes of it that the system takes for each program.
        shared_unit: A program's are a multiple of it.
        warps: That are resident at most.
        programs: That are resident at most.
        schedulers: Each starts an instruction of a warp per cycle.
        exponentials: That its special function units compute per cycle.
        lines: Of its first-level cache, of 128 bytes, that it looks up per cycle.
    """

    registers: int = 65536
    register_unit: int = 256
    shared: int = 164 << 10
    shared_kept: int = 1 << 10
    shared_unit: int = 128
    warps: int = 64
    programs: int = 32
    schedulers: int = 4
    exponentials: int = 16
    lines: int = 4


MULTIPROCESSORS: Mapping[str, Multiprocessor] = {
    "sm_80": Multiprocessor(),
    "sm_90": Multiprocessor(shared=228 << 10),
}
"""By architecture: those that there are kernels for."""


def named_arch(name: str) -> str:
    """The architecture that the name of a target has in it, or ""."""
    said = re.findall(r"sm_\d+[a-z]?", name)
    return str(said[-1]) if said else ""


def arch_of_target(target: Target) -> str:
    """Architecture of a GPU target, which its name says: ``sm_80``.

    Raises:
        TargetError: Its name has none that there are kernels for.
    """
    arch = named_arch(target.name)
    if arch in MULTIPROCESSORS:
        return arch
    raise TargetError(
        f"{target.name} names no GPU architecture that there are kernels for",
        fix=f"end its name with one of {', '.join(MULTIPROCESSORS)}",
    )
