"""A scheduled function as machine code in this process, on made-up values, and its time."""

from __future__ import annotations

import ctypes
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.codegen.toolchain import run_zig
from sparsecc.backends.tvm.load import load, tvm_ffi
from sparsecc.backends.tvm.nests import nests_of
from sparsecc.backends.tvm.objects import machine, object_of, runtime_object
from sparsecc.backends.tvm.symbols import variables_in
from sparsecc.targets import Target

LINK = ("ld.lld", "-shared", "-z", "defs", "-z", "noexecstack")
"""What needs TVM's runtime, such as memory for a large tile, does not link."""
SPAN_S = 2e-3
"""A timing runs at least so long."""
SPANS = 5
HOPELESS = 4.0
"""Times the best so far: a run this slow is not repeated."""
ALIGNED = 64
CLOSE = 1e-4
"""Of the largest value: sums in another order are so near."""

Array = NDArray[Any]


class Values:
    """Operands of a function, made up once: every schedule of it reads the same.

    Args:
        function: Its parameters are buffers, and sizes after them.
        sizes: Of its variables, by name.
    """

    def __init__(self, function: Any, sizes: Mapping[str, int]) -> None:
        self.sizes, self.rng = sizes, np.random.default_rng(0)
        self.buffers = [each for each in function.params if hasattr(each.ty, "shape")]
        written = _written(function)
        self.made = [at for at, each in enumerate(self.buffers) if each.name in written]
        self.arrays = [self._filled(each) for each in self.buffers]

    def _filled(self, buffer: Any) -> Array:
        shape, dtype = self.shape(buffer), np.dtype(str(buffer.ty.dtype))
        array = empty(shape, dtype)
        if dtype.kind == "f":
            array[...] = self.rng.uniform(0.1, 1, shape)
        else:  # valid positions of any table
            array[...] = self.rng.integers(0, 2, shape)
        return array

    def shape(self, buffer: Any) -> tuple[int, ...]:
        """Of a buffer of the function or of one inside."""
        return tuple(self.number(dim) for dim in buffer.ty.shape)

    def number(self, size: Any) -> int:
        """What an expression over the sizes comes to."""
        if isinstance(size, int):
            return size
        tvm = load()
        by = lambda var: tvm.tirx.IntImm(str(var.ty.dtype), self.sizes[var.name])  # noqa: E731
        return int(tvm.sym.Analyzer().simplify(tvm_ffi().structural_map(size, (tvm.ir.Var, by))))

    def clear(self) -> None:
        """Take away what the last run wrote."""
        for at in self.made:
            self.arrays[at][...] = 0

    def results(self) -> list[Array]:
        """What the last run wrote."""
        return [self.arrays[at].copy() for at in self.made]


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array that begins where vectors do, with memory behind it."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(count + 2 * ALIGNED, np.uint8)
    start = -memory.ctypes.data % ALIGNED
    array: Array = memory[start : start + count].view(dtype).reshape(shape)
    return array


def _written(function: Any) -> set[str]:
    found: set[str] = set()
    store = load().tirx.BufferStore
    tvm_ffi().structural_walk(function.body, (store, lambda each: found.add(each.buffer.name)))
    return found


class Timed:
    """One schedule of a function as code.

    Args:
        function: After scheduling.
        values: Of the function.
        target: What it is compiled for; this machine runs it.

    Raises:
        SparseccError: It cannot be compiled or needs a runtime.
    """

    def __init__(self, function: Any, values: Values, target: Target) -> None:
        variables = [each for each in variables_in([function]) if each.name in values.sizes]
        nests = nests_of(function, sorted(variables, key=lambda each: each.name), "tuned")
        kernels = {f"sc_tuned_{at}": nest.function for at, nest in enumerate(nests)}
        own = dict(zip(_parameters(function), values.arrays, strict=True))
        self.kept = values.arrays  # code writes there
        library = _linked(kernels, target)
        self.calls: list[tuple[Any, list[Any]]] = []
        for name, nest in zip(kernels, nests, strict=True):
            for buffer in nest.buffers:
                if buffer not in own:
                    own[buffer] = empty(values.shape(buffer), str(buffer.ty.dtype))
            given: list[Any] = [ctypes.c_void_p(own[each].ctypes.data) for each in nest.buffers]
            given += [ctypes.c_int64(values.sizes[each.name]) for each in nest.sizes]
            if nest.extent is not None:
                given += [ctypes.c_int64(0), ctypes.c_int64(values.number(nest.extent))]
            self.calls.append((getattr(library, name), given))
        self.own = own

    def run(self) -> None:
        """All of it, once, on this thread."""
        for call, given in self.calls:
            call(*given)

    def ms(self, best: float) -> float:
        """Time of a run, ms: the least of some; only about where it is far above `best`."""
        self.run()
        start = time.perf_counter()
        self.run()
        once = time.perf_counter() - start
        if once * 1e3 > HOPELESS * best:
            return once * 1e3
        count = max(1, round(SPAN_S / max(once, 1e-7)))
        return min(self._span(count) for _ in range(SPANS))

    def _span(self, count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            self.run()
        return (time.perf_counter() - start) / count * 1e3


def _parameters(function: Any) -> list[Any]:
    return [each for each in function.params if hasattr(each.ty, "shape")]


def _linked(kernels: Mapping[str, Any], target: Target) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernels.o").write_bytes(object_of(kernels, machine(target)))
        Path(folder, "runtime.o").write_bytes(runtime_object(target))
        run_zig([*LINK, "kernels.o", "runtime.o", "-o", "tuned.so"], Path(folder))
        return ctypes.CDLL(str(Path(folder, "tuned.so")))


def agree(ours: list[Array], theirs: list[Array]) -> bool:
    """Whether two schedules computed the same, but for the order of sums."""
    return all(_near(a, b) for a, b in zip(ours, theirs, strict=True))


def _near(a: Array, b: Array) -> bool:
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    most = CLOSE * float(np.max(np.abs(b), initial=0))
    return bool(np.all(np.abs(a.astype(np.float64) - b) <= most))
