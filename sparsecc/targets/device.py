"""The GPU of this machine, as its driver describes it."""

from __future__ import annotations

import ctypes
import functools

Capability = tuple[int, int]
"""Major and minor version of what a GPU can do."""
_DRIVER = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76
"""``CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...``."""


@functools.cache
def capability() -> Capability | None:
    """Of the first GPU; None where there is none, or no driver."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device, found = ctypes.c_int(), [ctypes.c_int(), ctypes.c_int()]
    failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
    for number, which in zip(found, (_MAJOR, _MINOR), strict=True):
        failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(number), which, device)
    return None if failed else (found[0].value, found[1].value)


def runs_on(arch: str, device: Capability | None) -> bool:
    """Whether machine code for an architecture such as ``sm_80`` runs on a GPU.

    It does within a major version, from the minor version that it was built for.
    """
    if device is None or not arch:
        return False
    major, minor = divmod(int(arch.removeprefix("sm_")), 10)
    return device[0] == major and device[1] >= minor
