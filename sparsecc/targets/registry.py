"""Names of targets, and what ``native`` means on the machine at hand."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

from sparsecc.errors import TargetError
from sparsecc.targets.arm import ARM64_LINUX
from sparsecc.targets.base import Target
from sparsecc.targets.x86 import X86_64, X86_64_V3, X86_64_V4

TARGETS: dict[str, Target] = {
    target.name: target for target in (X86_64, X86_64_V3, X86_64_V4, ARM64_LINUX)
}

_V3_FLAGS = {"avx2", "fma", "bmi2", "f16c"}
_V4_FLAGS = _V3_FLAGS | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


@functools.cache
def _cpu_flags() -> frozenset[str]:
    """Feature flags of the first processor, as Linux names them; empty elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return frozenset()
    for line in cpuinfo.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _native() -> Target:
    if platform.system() != "Linux":
        raise TargetError(
            f"no kernels can be built for {platform.system()} yet",
            fix=f"name a target to build for: {', '.join(TARGETS)}",
        )
    machine = platform.machine()
    if machine in ("aarch64", "arm64"):
        return ARM64_LINUX
    flags = _cpu_flags()
    if machine in ("x86_64", "AMD64") and flags >= _V4_FLAGS:
        return X86_64_V4
    if machine in ("x86_64", "AMD64") and flags >= _V3_FLAGS:
        return X86_64_V3
    raise TargetError(
        f"this {machine} processor has no kernels: x86-64 needs AVX2 and FMA",
        fix=f"compile for another machine with one of: {', '.join(TARGETS)}",
    )


def get(name: str) -> Target:
    """The target of a name, or the best one for this machine for ``native``.

    Raises:
        TargetError: The name is unknown, or this machine has no kernels.
    """
    if name == "native":
        return _native()
    if name not in TARGETS:
        raise TargetError(
            f"unknown target {name!r}", fix=f"use native or one of: {', '.join(TARGETS)}"
        )
    return TARGETS[name]


def runs_here(target: Target) -> bool:
    """Whether this machine can run a target's library."""
    try:
        native = _native()
    except TargetError:
        return False
    if native.triple != target.triple:
        return False
    order = (X86_64_V3.name, X86_64_V4.name)
    if native.name not in order:
        return True
    return order.index(target.isas[0]) <= order.index(native.name)
