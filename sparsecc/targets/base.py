"""The form of a target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One kind of hardware, as far as code generation and the cost model need it.

    Attributes:
        name: What the user writes.
        triple: zig's target triple.
        isas: Instruction-set variants that the library holds, least capable first.
        lanes: float32 lanes of a vector register of the best variant.
        fma_ports: Vector multiply-adds started per cycle.
        ghz: Clock of a typical core under vector load.
        llc_bytes: Last-level cache a core can fill.
        dram_gbs: Memory bandwidth of one core, GB/s.
        int8_gain: Multiply-adds of bytes for each one of float32.
    """

    name: str
    triple: str
    isas: tuple[str, ...]
    lanes: int
    fma_ports: float
    ghz: float
    llc_bytes: int
    dram_gbs: float
    int8_gain: float

    @property
    def peak_gflops(self) -> float:
        """float32 multiply-add peak of one core, GFLOP/s."""
        return self.lanes * self.fma_ports * self.ghz * 2
