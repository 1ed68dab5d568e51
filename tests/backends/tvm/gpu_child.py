"""A process in which kernels are interpreted: runs libraries for the CPU that start them.

What TVM passes is taken as it is: addresses, numbers, and the sizes of a launch.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch

from sparsecc.backends.cuda.build import WARP
from sparsecc.backends.cuda.interpret import _run, interpret
from sparsecc.backends.cuda.kernel import Kernel
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.backends.tvm.load import load, tvm_ffi

DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "i32": torch.int32,
    "i64": torch.int64,
    "u16": torch.uint16,
}
Shapes = Mapping[str, Sequence[int]]
"""Of the tensors among the arguments of a launch, by name."""


def at(address: Any, kind: str, shape: Sequence[int] = (1,)) -> torch.Tensor:
    """The tensor at an address: by default one number, from where the interpreter goes on."""
    dtype = DTYPES[kind.removeprefix("*")]
    count = max(1, math.prod(shape))
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(address.value)
    return torch.frombuffer(memory, dtype=dtype, count=count)


def start(kernel: Kernel, arch: str, given: Sequence[Any], shapes: Shapes | None = None) -> None:
    """Run a kernel on what TVM passes to its launch.

    Args:
        kernel: The row.
        arch: What the library is for.
        given: All that is passed: addresses, numbers, and the sizes of the launch.
        shapes: Of tensors, where they are known; kernels in CUDA C++ need them.
    """
    launch, names = kernel.launch(arch), list(kernel.arguments.items())
    arguments = {
        name: at(each, kind, (shapes or {}).get(name, (1,))) if kind.startswith("*") else each
        for (name, kind), each in zip(names, given, strict=False)
    }
    scratch, profile, *sizes = given[len(names) :]
    shared = [launch.shared] if launch.shared else []
    assert (scratch, profile) == (0, 0)
    grid = tuple(sizes[: len(sizes) - 1 - len(shared)])
    assert sizes[len(grid) :] == [WARP * launch.warps, *shared]
    if kernel.language == "cuda":
        interpret(kernel, arch, grid, arguments)
    else:
        _run(kernel, arch, grid, arguments)


class Steps:
    """The launches of a library, in the order in which they have to come.

    Args:
        arch: What it is for.
    """

    def __init__(self, arch: str) -> None:
        self.arch, self.left = arch, list[tuple[str, Shapes]]()

    def told(self, kernel: Kernel) -> Any:
        """What stands in the place of a kernel."""

        def run(*given: Any) -> None:
            name, shapes = self.left.pop(0)
            assert name == kernel.name
            start(kernel, self.arch, given, shapes)

        return run


def main(folder: Path, arch: str) -> None:
    """Run every library of a folder on the inputs beside it, and write its outputs."""
    tvm, steps = load(), Steps(arch)
    for kernel in KERNELS.values():
        tvm_ffi().register_global_func(kernel.symbol, steps.told(kernel))
    for library in sorted(folder.glob("*.so")):
        steps.left = json.loads(library.with_suffix(".json").read_text())
        machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
        with np.load(library.with_suffix(".in.npz")) as inputs:
            outputs = machine["main"](*(tvm.runtime.tensor(each) for each in inputs.values()))
        assert not steps.left
        np.savez(library.with_suffix(".out.npz"), *(each.numpy() for each in outputs))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
