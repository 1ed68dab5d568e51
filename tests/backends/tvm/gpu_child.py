"""A process in which kernels are interpreted: runs libraries for the CPU that start them.

What TVM passes is taken as it is: addresses, numbers, and the sizes of a launch.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch

from sparsecc.backends.cuda.build import WARP
from sparsecc.backends.cuda.interpret import _run
from sparsecc.backends.cuda.kernel import Kernel
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.backends.tvm.load import load, tvm_ffi

DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "i32": torch.int32,
    "u16": torch.uint16,
}


def at(address: Any, kind: str) -> torch.Tensor:
    """One element at an address: the interpreter goes on from there."""
    dtype = DTYPES[kind.removeprefix("*")]
    memory = (ctypes.c_char * dtype.itemsize).from_address(address.value)
    return torch.frombuffer(memory, dtype=dtype)


def started(kernel: Kernel, arch: str) -> Any:
    """What stands in the place of a kernel of a library."""

    def start(*given: Any) -> None:
        launch, names = kernel.launch(arch), list(kernel.arguments.items())
        arguments = {
            name: at(each, kind) if kind.startswith("*") else each
            for (name, kind), each in zip(names, given, strict=False)
        }
        scratch, profile, *sizes = given[len(names) :]
        shared = [launch.shared] if launch.shared else []
        assert (scratch, profile) == (0, 0)
        grid = sizes[: len(sizes) - 1 - len(shared)]
        assert sizes[len(grid) :] == [WARP * launch.warps, *shared]
        _run(kernel, arch, tuple(grid), arguments)
        calls.append(kernel.name)

    return start


calls: list[str] = []


def main(folder: Path, arch: str) -> None:
    """Run every library of a folder on the inputs beside it, and write its outputs."""
    tvm = load()
    for kernel in KERNELS.values():
        tvm_ffi().register_global_func(kernel.symbol, started(kernel, arch))
    for library in sorted(folder.glob("*.so")):
        machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
        with np.load(library.with_suffix(".in.npz")) as inputs:
            outputs = machine["main"](*(tvm.runtime.tensor(each) for each in inputs.values()))
        arrays = [each.numpy() for each in outputs]
        np.savez(library.with_suffix(".out.npz"), *arrays, calls=np.array(calls))
        calls.clear()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
