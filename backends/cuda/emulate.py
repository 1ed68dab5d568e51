"""A kernel in CUDA C++ run by this machine's processor: its text compiled against an emulator.

``kernels/emulator.h`` says what is emulated. Every tensor is copied between zones of NaN, which
show what is read outside of it, and are looked at afterwards for what was written there.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.codegen.toolchain import Build, Unit, build_cached
from sparsecc.backends.cuda.arguments import checked
from sparsecc.backends.cuda.kernel import Arch, Kernel
from sparsecc.backends.cuda.nvcc import check_arguments, defines, texts
from sparsecc.errors import BackendError

PROCESSORS = ("x86_64", "aarch64")
"""That the emulator can switch between threads on."""
GUARD = 1 << 14
"""Bytes before and after each tensor."""
POISON = 0xFF
"""A NaN of every type, and -1."""
STACK = 64 << 10
"""Bytes of each thread's stack, as the emulator has it."""
_FLAGS = (
    *("-x", "c++", "-std=c++20", "-O2", "-g0", "-fPIC", "-ffreestanding", "-fno-exceptions"),
    *("-fno-rtti", "-fvisibility=hidden", "-fno-stack-protector", "-fno-sanitize=all"),
    *("-fno-strict-aliasing", "-ffp-contract=off", "-Wall", "-Werror", "-Wno-unused-function"),
)


def emulate(kernel: Kernel, arch: Arch, grid: Sequence[int], arguments: Mapping[str, Any]) -> None:
    """Run a kernel; tensors among the arguments that it writes to are written to.

    Args:
        kernel: A row of the table in CUDA C++.
        arch: Whose constants are taken.
        grid: Blocks along each of up to three axes.
        arguments: By name: torch tensors on the CPU, and numbers.

    Raises:
        BackendError: This machine has another processor, or arguments do not fit the row.
        AssertionError: The kernel is wrong: its threads wait for one another, copies are not
            waited for, or memory beside a tensor is written.
    """
    run = _compiled(kernel, arch)
    values = checked(kernel, arguments)
    guarded = {name: _guarded(each) for name, each in values.items() if hasattr(each, "data_ptr")}
    held = [
        ctypes.c_void_p(_address(guarded[name]) + GUARD) if name in guarded else each
        for name, each in values.items()
    ]
    pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(each) for each in held))
    threads = 32 * kernel.launch(arch).warps
    stacks = np.empty(threads * STACK + 64, np.uint8)
    sides = [*grid, 1, 1][:3]
    said = run(pointers, *sides, ctypes.c_void_p(-(-_address(stacks) // 64) * 64))
    if said:
        raise AssertionError(f"{kernel.name}: {said.decode()}")
    for name, array in guarded.items():
        inside = array[GUARD:-GUARD]
        if (array[:GUARD] != POISON).any() or (array[-GUARD:] != POISON).any():
            raise AssertionError(f"{kernel.name} writes outside of {name}")
        ctypes.memmove(values[name].data_ptr(), _address(inside), inside.size)


def _address(array: NDArray[np.uint8]) -> int:
    return int(array.ctypes.data)


def _guarded(tensor: Any) -> NDArray[np.uint8]:
    """The bytes of a tensor between two guards, aligned."""
    size = tensor.numel() * tensor.element_size()
    whole = np.full(size + 2 * GUARD + 256, POISON, np.uint8)
    start = -_address(whole) % 256
    array = whole[start : start + size + 2 * GUARD]
    ctypes.memmove(_address(array) + GUARD, tensor.data_ptr(), size)
    return array


@functools.lru_cache(64)
def _run_of(path: str, function: str) -> Any:
    run = getattr(
        ctypes.PyDLL(path), f"emulate_{function}"
    )  # one at a time: it holds Python's lock
    run.argtypes = [ctypes.c_void_p, *[ctypes.c_uint32] * 3, ctypes.c_void_p]
    run.restype = ctypes.c_char_p
    return run


def _compiled(kernel: Kernel, arch: Arch) -> Any:
    processor = platform.machine()
    if processor not in PROCESSORS or platform.system() != "Linux":
        raise BackendError(
            f"kernels in CUDA C++ are not emulated on {processor} {platform.system()}",
            fix=f"run on Linux on {' or '.join(PROCESSORS)}, or on a GPU",
        )
    check_arguments(kernel)
    name = f"{kernel.module}.cu"
    build = Build(
        f"{kernel.name}.so",
        f"{processor}-linux-gnu",
        texts(kernel),
        (Unit(name, defines=defines(kernel, arch)),),
        _FLAGS,
        ("-shared", "--strip-all"),
    )
    return _run_of(str(build_cached(build)), kernel.function)
