"""Kernels in CUDA C++: their arguments, and machine code made by nvcc, without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsecc.backends.codegen.toolchain import STDERR_TAIL, TIMEOUT_S, included
from sparsecc.backends.cuda.kernel import Arch, Kernel
from sparsecc.backends.cuda.load import NVCC_FIX, NVCC_PINS, nvcc, sources
from sparsecc.errors import BackendError

TYPES: Mapping[str, str] = {
    "*fp16": "u16*",
    "*bf16": "u16*",
    "*fp32": "float*",
    "*i32": "int*",
    "i32": "int",
    "fp32": "float",
}
"""Type of an argument in the table → in CUDA C++, ``const`` aside."""
FLAGS = ("-cubin", "-std=c++17", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v")
_USED = re.compile(r"(\d+) bytes stack frame.*?Used (\d+) registers", re.DOTALL)
_READS = ("NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS", "NVCC_CCBIN")


def texts(kernel: Kernel) -> dict[str, str]:
    """What a kernel is compiled from, its own file first."""
    return included(sources(kernel.module), f"{kernel.module}.cu")


def defines(kernel: Kernel, arch: Arch) -> tuple[str, ...]:
    """Macros that a kernel is compiled with, as ``NAME=VALUE``."""
    how = kernel.launch(arch)
    sizes = {"WARPS": how.warps, "STAGES": how.stages, "SHARED": how.shared}
    values = {**kernel.constants_on(arch), **sizes}
    return tuple(f"{name}={value}" for name, value in values.items())


def check_arguments(kernel: Kernel) -> None:
    """A row and its function have the same arguments, or this is a mistake of ours."""
    text = texts(kernel)[f"{kernel.module}.cu"]
    found = re.search(rf"KERNEL\({kernel.function},([^)]*)\)", text)
    declared = found[1].replace("const ", "").split(",") if found else []
    of_the_row = [f"{TYPES[kind]} {name}" for name, kind in kernel.arguments.items()]
    if [" ".join(each.split()) for each in declared] != of_the_row:
        raise AssertionError(f"the row of {kernel.name} has other arguments than its function")


def made_of(kernel: Kernel, arch: Arch) -> Any:
    """All that a build is made of."""
    return texts(kernel), defines(kernel, arch), kernel.function, kernel.symbol, FLAGS, NVCC_PINS


def compiled(kernel: Kernel, arch: Arch, folder: Path) -> tuple[bytes, int, int]:
    """A cubin, the registers of a thread and the bytes of its stack.

    Raises:
        BackendError: nvcc is missing or of another version, or fails.
    """
    check_arguments(kernel)
    for name, text in texts(kernel).items():
        (folder / name).write_text(text)
    named = f"{kernel.function}={kernel.symbol}"
    macros = [f"-D{each}" for each in (*defines(kernel, arch), named)]
    flags = (*FLAGS, f"-arch={arch}", *macros)
    failed, said = run_nvcc([*flags, f"{kernel.module}.cu", "-o", "kernel.cubin"], folder)
    used = _USED.search(said)
    if failed or used is None:
        raise BackendError(
            f"nvcc cannot build {kernel.name} for {arch}:\n{said.strip()[-STDERR_TAIL:]}",
            fix="install gcc, which nvcc calls, or " + NVCC_FIX,
        )
    return (folder / "kernel.cubin").read_bytes(), int(used[2]), int(used[1])


def run_nvcc(arguments: Sequence[str], folder: Path) -> tuple[bool, str]:
    """Run nvcc in a folder: whether it failed, and what it said.

    Raises:
        BackendError: It is missing or of another version, or cannot be started.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _READS}
    try:
        done = subprocess.run(
            [str(nvcc()), *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"nvcc could not run: {error}", fix=NVCC_FIX) from error
    return bool(done.returncode), done.stdout + done.stderr
