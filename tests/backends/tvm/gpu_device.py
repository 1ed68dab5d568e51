"""A process with a GPU that is made up: TVM's CUDA runtime runs an artifact over ``gpu_driver.c``.

Our kernels are interpreted, TVM's were built for the host. Run with the folder of the driver in
``LD_LIBRARY_PATH``.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np

from sparsecc.backends.cuda.table import KERNELS
from sparsecc.backends.tvm.load import load
from tests.backends.tvm.gpu_child import start

Told = ctypes.CFUNCTYPE(
    None,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.POINTER(ctypes.c_void_p),
)
READ = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}


class Device:
    """What the driver tells of: launches, at once or as parts of a graph."""

    def __init__(self, dense: Path, arch: str) -> None:
        self.dense, self.arch = ctypes.CDLL(str(dense)), arch
        self.rows = {each.symbol: each for each in KERNELS.values()}
        self.graphs: dict[int, list[Any]] = {}
        self.calls: list[str] = []

    def told(self, graph: int, name: bytes | None, sizes: Any, parameters: Any) -> None:
        """A launch, of a graph that is recorded or not; or the launch of a graph."""
        if name is None:
            for run in self.graphs[graph]:
                run()
            self.calls.append("graph")
            return
        run = self.read(name.decode(), list(sizes[:7]), parameters)
        if graph < 0:
            run()
        else:
            self.graphs.setdefault(graph, []).append(run)

    def read(self, name: str, sizes: list[int], parameters: Any) -> Any:
        """A launch with the values that its arguments have now."""
        if name in self.rows:
            return self.of_row(name, sizes, parameters)
        run = getattr(self.dense, f"run_{name}")
        run.restype = None
        count = ctypes.c_int.in_dll(self.dense, f"count_{name}").value
        held = [ctypes.c_uint64.from_address(parameters[at]).value for at in range(count)]
        places = (ctypes.c_uint64 * count)(*held)
        first = ctypes.addressof(places)
        pointers = (ctypes.c_void_p * count)(*(first + 8 * at for at in range(count)))

        def go() -> None:
            assert places  # keeps what the pointers point to
            self.calls.append(name)
            run(pointers, (ctypes.c_uint32 * 7)(*sizes))

        return go

    def of_row(self, name: str, sizes: list[int], parameters: Any) -> Any:
        """A launch of a kernel of ours."""
        kernel, given = self.rows[name], list[Any]()
        for at, kind in enumerate([*kernel.arguments.values(), "i64", "i64"]):
            plain = kind.removesuffix(":16")
            if plain.startswith("*"):
                given.append(ctypes.c_void_p.from_address(parameters[at]))
                given[-1] = ctypes.c_void_p(given[-1].value)
            else:
                given.append(READ[plain].from_address(parameters[at]).value)
        grid, (threads, *others), shared = sizes[:3], sizes[3:6], sizes[6]
        assert others == [1, 1]
        every = [*given, *grid, threads, *([shared] if shared else [])]

        def run() -> None:
            self.calls.append(name)
            start(kernel, self.arch, every)

        return run


def main(folder: Path, arch: str) -> None:
    """Run the artifact twice, so that what was recorded runs too."""
    tvm, device = load(), Device(folder / "dense.so", arch)
    driver = ctypes.CDLL("libcudart.so.13")
    teller = Told(device.told)
    ctypes.c_void_p.in_dll(driver, "teller").value = ctypes.cast(teller, ctypes.c_void_p).value
    module = tvm.runtime.load_module(str(folder / "model.so"))
    machine = tvm.relax.VirtualMachine(module, tvm.cuda())
    arrays = {}
    with np.load(folder / "in.npz") as inputs:
        for turn in range(2):
            given = [tvm.runtime.tensor(each, tvm.cuda()) for each in inputs.values()]
            arrays[f"turn{turn}"] = machine["main"](*given)[0].numpy()
            arrays[f"calls{turn}"] = np.array(device.calls)
            device.calls.clear()
    np.savez(folder / "out.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
