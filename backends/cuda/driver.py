"""Machine code started through the driver of CUDA, in torch's context and on its stream."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

from sparsecc.backends.cuda.build import WARP, Binary, build
from sparsecc.backends.cuda.kernel import Arch, Kernel
from sparsecc.errors import BackendError

LIBRARY = "libcuda.so.1"
_MOST_SHARED = 8
"""Attribute of a function: dynamic shared memory it may ask for, 48 KB if it is not set."""
_AS_IT_IS = 48 << 10
_Pointer = ctypes.c_void_p


def start(
    kernel: Kernel, arch: Arch, device: int, grid: Sequence[int], values: Sequence[Any], stream: int
) -> None:
    """Start a kernel in CUDA C++, loaded at its first start on a device.

    Args:
        kernel: A row, or a variant of one.
        arch: Of the device.
        device: Its number; it is torch's current one.
        grid: Blocks along each of up to three axes.
        values: Of ctypes, in the order of the row.
        stream: Handle of a stream.

    Raises:
        BackendError: The driver is missing or refuses.
    """
    _enter(device)
    binary, function = _loaded(kernel, arch, device)
    pointers = (_Pointer * len(values))(*(ctypes.addressof(each) for each in values))
    sides = (*grid, 1, 1)[:3]
    block = (WARP * binary.warps, 1, 1)
    _call(
        "cuLaunchKernel", function, *sides, *block, binary.shared, _Pointer(stream), pointers, None
    )


@functools.cache
def _driver() -> Any:
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise BackendError(
            f"no driver of CUDA: {error}", fix="install NVIDIA's driver, or run on the CPU"
        ) from error


def _call(name: str, *arguments: Any) -> None:
    status = getattr(_driver(), name)(*arguments)
    if status:
        said = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(said))
        raise BackendError(
            f"{name} fails: {(said.value or b'an error').decode()} ({status})",
            fix="look for an earlier error on this GPU, or for a driver older than CUDA 13",
        )


def _enter(device: int) -> None:
    """Make the device's context current, which a new thread of the system has not yet."""
    context = _Pointer()
    _call("cuCtxGetCurrent", ctypes.byref(context))
    if not context:
        place = ctypes.c_int()
        _call("cuDeviceGet", ctypes.byref(place), device)
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), place)
        _call("cuCtxSetCurrent", context)


_LOADED: dict[tuple[int, Arch, int], tuple[Kernel, Binary, _Pointer]] = {}
"""By the identity of a kernel, which is held so that no other takes it, and by the device."""


def _loaded(kernel: Kernel, arch: Arch, device: int) -> tuple[Binary, _Pointer]:
    """The code of a kernel and its function on a device, where it stays."""
    key = id(kernel), arch, device
    if key not in _LOADED:
        binary = build(kernel, arch)
        module, function = _Pointer(), _Pointer()
        _call("cuModuleLoadData", ctypes.byref(module), binary.code)
        _call("cuModuleGetFunction", ctypes.byref(function), module, binary.symbol.encode())
        if binary.shared > _AS_IT_IS:
            _call("cuFuncSetAttribute", function, _MOST_SHARED, binary.shared)
        _LOADED[key] = kernel, binary, function
    return _LOADED[key][1:]
