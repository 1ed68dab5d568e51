"""A kernel of the table run on tensors of the CPU: slow, and no GPU needed.

CUDA C++ is emulated here. Triton decides when it is imported whether functions are compiled or
interpreted, so that its interpreter has a process of its own, which is started once.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from sparsecc.backends.cuda.emulate import emulate
from sparsecc.backends.cuda.kernel import Arch, Kernel
from sparsecc.backends.cuda.load import function


def interpret(
    kernel: Kernel, arch: Arch, grid: Sequence[int], arguments: Mapping[str, Any]
) -> None:
    """Run a kernel; tensors among the arguments that it writes to are written to.

    Args:
        kernel: A row of the table, or a variant of one.
        arch: Whose constants are taken.
        grid: Programs along each of up to three axes.
        arguments: By name: torch tensors on the CPU, and numbers.

    Raises:
        BackendError: Triton is missing, or does not load; or arguments do not fit the row.
    """
    kernel.launch(arch)
    if kernel.language == "cuda":
        emulate(kernel, arch, grid, arguments)
        return
    ours = dict(arguments)
    written = _worker().submit(_run, kernel, arch, tuple(grid), ours).result()
    for name, tensor in written.items():
        arguments[name].copy_(tensor)


@functools.cache
def _worker() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_start)


def _start() -> None:
    os.environ["TRITON_INTERPRET"] = "1"


def _run(
    kernel: Kernel, arch: Arch, grid: tuple[int, ...], arguments: dict[str, Any]
) -> dict[str, Any]:
    """In the other process: the tensors after the kernel has run over this grid."""
    run = function(kernel.module, kernel.function)
    _multiply_bfloat16()
    run[grid](**arguments, **kernel.constants_on(arch))
    return {name: value for name, value in arguments.items() if hasattr(value, "data_ptr")}


@functools.cache
def _multiply_bfloat16() -> None:
    """Let products take bfloat16, whose bits the interpreter would multiply as integers."""
    from triton import language as tl
    from triton.runtime import interpreter

    plain = interpreter.interpreter_builder.create_dot

    def widened(handle: Any) -> Any:
        if handle.dtype != tl.bfloat16:
            return handle
        bits = handle.data.astype("uint32") << 16
        return interpreter.TensorHandle(bits.view("float32"), tl.float32)

    def dot(a: Any, b: Any, *rest: Any) -> Any:
        return plain(widened(a), widened(b), *rest)

    interpreter.interpreter_builder.create_dot = dot
