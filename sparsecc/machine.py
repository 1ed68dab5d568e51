"""What the machine at hand says about its processor."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The processor's name; "" where the system does not tell."""
    return cpuinfo("model name") or platform.processor()


def cpuinfo(key: str) -> str:
    """What Linux says under a key about the first processor; "" elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(key))
    return next(found, "")


def cpu_flags() -> frozenset[str]:
    """Names of the instruction sets that Linux says the processor has; empty elsewhere."""
    return frozenset(cpuinfo("flags").split())


__all__ = ["cpu_flags", "cpuinfo", "processor"]
