"""Steps timed in this process, one run at a time, with the caches as a whole model leaves them."""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.codegen.code_table import CodeTable, code_table
from sparsecc.backends.codegen.toolchain import Build, build_cached
from sparsecc.backends.kernels.sources import HERE, read_sources, units
from sparsecc.backends.kernels.step_harness import Array, Step, Tensor
from sparsecc.backends.kernels.table import RANK, STEPS, TYPES
from sparsecc.errors import BackendError

_CLOCK_S = 0.02
_ALIGN = 64


class _Constant(ctypes.Structure):
    """``sc_constant`` of region.h."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("dims", ctypes.c_int64 * RANK),
        ("data", ctypes.c_void_p),
        ("count", ctypes.c_int64),
    )


class _Tensor(ctypes.Structure):
    """``sc_tensor`` of region.h."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("layout", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("dims", ctypes.c_int64 * RANK),
        ("data", ctypes.c_void_p),
    )


class Probe:
    """The kernels of one instruction set of this machine, loaded into this process.

    Attributes:
        ms_per_tick: Of the clock that runs are timed by.
    """

    def __init__(self, isa: str, triple: str, near_bytes: int, far_bytes: int) -> None:
        """Build and load.

        Args:
            isa: Name of the instruction set.
            triple: zig's target triple of this machine.
            near_bytes: What is read before every run, so that weights are no longer near.
            far_bytes: Of whose pages one number is read besides, so that those of the weights are
                no longer known; as much as the last cache holds, at most.

        Raises:
            BackendError: zig failed, or this machine does not run it.
        """
        sources = read_sources(HERE / "driver")
        built = build_cached(Build(f"libprobe-{isa}.so", triple, sources, units([isa], "probe.c")))
        try:
            self._library = ctypes.CDLL(str(built))
        except OSError as error:
            raise BackendError(
                f"{built.name} does not load: {error}", fix="calibrate on the machine at hand"
            ) from error
        self._library.probe_open.restype = ctypes.c_char_p
        self._library.probe_ticks.restype = ctypes.c_uint64
        self._library.probe_codes.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 3]
        self._library.probe_chill.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 2]
        self._library.probe_close.argtypes = [ctypes.c_void_p]
        process = ctypes.CDLL(None)
        self._library.probe_memory(process.malloc, process.free)
        self._near = near_bytes
        self._cold_map = mmap.mmap(-1, max(near_bytes, far_bytes))
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            self._cold_map.madvise(mmap.MADV_NOHUGEPAGE)
        self._cold = np.frombuffer(self._cold_map, np.float32)
        self._cold[:] = 1  # a page that was never written is the page of zeros
        self.ms_per_tick = self._clock()

    def times(self, step: Step, repeat: int) -> NDArray[np.float64]:
        """Times of runs of a step of one output, ms.

        Raises:
            BackendError: The step was refused or failed.
        """
        with self._opened(step) as probe:
            return self.run(probe, repeat)

    @contextmanager
    def _opened(self, step: Step) -> Iterator[ctypes.c_void_p]:
        table = code_table(step.patterns)
        constants = [_aligned(each) for each in step.constants]
        tensors = [(_aligned(each.data), each) for each in step.inputs]
        attributes = np.array(step.attributes, np.int64)
        ours = (_Constant * len(constants))(*map(_constant, constants))
        inputs = (_Tensor * len(tensors))(*(_tensor(*pair) for pair in tensors))
        probe = ctypes.c_void_p()
        with self._codes(table):
            wrong = self._library.probe_open(
                ctypes.c_int64(STEPS.index(step.kind)),
                ctypes.c_void_p(attributes.ctypes.data),
                ctypes.c_int64(len(attributes)),
                ours,
                ctypes.c_int64(len(ours)),
                inputs,
                ctypes.c_int64(len(inputs)),
                ctypes.byref(probe),
            )
            if wrong:
                raise BackendError(f"{step.kind}: {wrong.decode()}", fix="report it: it is a bug")
            try:
                yield probe
            finally:
                self._library.probe_close(probe)

    def chill(self) -> None:
        """Leave the caches as they are before a run."""
        self._library.probe_chill(self._cold.ctypes.data, self._near, self._cold.nbytes)

    def run(self, probe: ctypes.c_void_p, repeat: int) -> NDArray[np.float64]:
        """Times of runs of an open step, ms."""
        ticks = np.zeros(repeat, np.uint64)
        status = self._library.probe_run(
            probe,
            ctypes.c_int64(repeat),
            ctypes.c_void_p(ticks.ctypes.data),
            ctypes.c_void_p(self._cold.ctypes.data),
            ctypes.c_int64(self._near),
            ctypes.c_int64(self._cold.nbytes),
        )
        if status:
            raise BackendError(f"a step failed with status {status}", fix="free memory")
        return ticks.astype(np.float64) * self.ms_per_tick

    @contextmanager
    def _codes(self, table: CodeTable) -> Iterator[None]:
        if not table.count:
            yield
            return
        codes, cells = np.frombuffer(table.codes, np.uint8), np.ascontiguousarray(table.cells)
        rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        with mmap.mmap(-1, max(1, len(table.text)), prot=rights) as text:
            text.write(table.text)
            place = ctypes.c_char.from_buffer(text)
            pointers = (codes.ctypes.data, cells.ctypes.data, ctypes.addressof(place))
            self._library.probe_codes(table.count, *pointers)
            try:
                yield
            finally:
                self._library.probe_codes(0, None, None, None)
                del place  # the mapping cannot be closed while something points into it

    def _clock(self) -> float:
        ticks, start = self._library.probe_ticks(), time.perf_counter()
        while (took := time.perf_counter() - start) < _CLOCK_S:
            pass
        return float(took * 1e3 / (self._library.probe_ticks() - ticks))


def _aligned(array: Array) -> Array:
    """A copy at the start of a cache line, as ONNX Runtime and the arena have them."""
    whole = np.zeros(array.nbytes + _ALIGN, np.uint8)
    skip = -whole.ctypes.data % _ALIGN
    out = whole[skip : skip + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


def _dims(sizes: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * RANK)(*sizes)


def _constant(array: Array) -> _Constant:
    kind = TYPES.index(array.dtype.name)
    return _Constant(kind, array.ndim, _dims(array.shape), array.ctypes.data, array.size)


def _tensor(data: Array, tensor: Tensor) -> _Tensor:
    kind, sizes = TYPES.index(data.dtype.name), tensor.dims
    return _Tensor(kind, tensor.layout, len(sizes), _dims(sizes), data.ctypes.data)
