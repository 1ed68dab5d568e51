"""The measured roofs of one core: multiply-adds per second and bytes read per second."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

import numpy as np

from sparsecc import targets
from sparsecc.backends.codegen.toolchain import Build, Unit, build_cached
from sparsecc.backends.kernels.sources import CLANG_WIDE, HERE
from sparsecc.backends.kernels.table import ISAS, Isa

SOURCE = HERE / "driver" / "peak.c"
TURNS = 40
TURN_S = 0.02
LEVELS = {"L2": 256 << 10, "DRAM": 256 << 20}
"""Bytes read: twice a first-level cache would be evicted, and beyond any last-level cache."""


def isas_here() -> list[Isa]:
    """Instruction sets this machine can run, the widest last."""
    return [ISAS[name] for name in targets.get("native").isas]


class Probe:
    """The probe of one instruction set, loaded into this process."""

    def __init__(self, isa: Isa) -> None:
        flags = CLANG_WIDE if isa.vector_bytes == 64 else ()
        unit = Unit(SOURCE.name, isa.cpu, (f"VB={isa.vector_bytes}",), flags)
        triple = targets.get("native").triple
        sources = {SOURCE.name: SOURCE.read_text(encoding="utf-8")}
        built = build_cached(Build(f"libpeak-{isa.suffix}.so", triple, sources, (unit,)))
        self._library = ctypes.CDLL(str(built))
        self._library.sc_peak.argtypes = [ctypes.c_int64, ctypes.c_float, ctypes.c_float]
        self._library.sc_stream.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        self._library.sc_peak.restype = self._library.sc_stream.restype = ctypes.c_float

    def gflops(self) -> float:
        """Multiply-add peak, GFLOP/s: the best of many short turns."""
        flops: int = self._library.sc_peak_flops()
        return flops / 1e9 / _seconds(lambda rounds: self._library.sc_peak(rounds, 0.5, 1.0))

    def gbs(self, size: int) -> float:
        """Bytes read per second from an array of `size` bytes, GB/s."""
        array = np.ones(size // 4, np.float32)  # zeros would all be one page
        address, count = array.ctypes.data, array.size
        read = _seconds(lambda rounds: self._library.sc_stream(address, count, rounds))
        return size / 1e9 / read


def _seconds(call: Callable[[int], object]) -> float:
    """Least time of one round over many turns of about the same length."""
    rounds = 1
    while (took := _timed(call, rounds)) < TURN_S:
        rounds *= 2 if took <= TURN_S / 64 else max(2, int(TURN_S / took) + 1)
    return min(_timed(call, rounds) for _ in range(TURNS)) / rounds


def _timed(call: Callable[[int], object], rounds: int) -> float:
    start = time.perf_counter()
    call(rounds)
    return time.perf_counter() - start
