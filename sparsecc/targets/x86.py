"""x86-64 targets, named after the levels of the System V psABI.

Clock, ports, caches and bandwidths are those of a Zen 5 server core, measured: 249 GFLOP/s with
AVX-512.
"""

import dataclasses
from typing import Final

from sparsecc.targets.base import Target

_V3: Final = "x86-64-v3"
_V4: Final = "x86-64-v4"

X86_64_V4 = Target(
    name=_V4,
    family="x86-64",
    triple="x86_64-linux-gnu",
    isas=(_V4,),
    lanes=16,
    fma_ports=2.0,
    registers=32,
    ghz=3.9,
    threads=2,
    caches=(48 << 10, 1 << 20, 32 << 20),
    bandwidths=(400.0, 200.0, 90.0, 15.0),
    int8_gain=4.0,
)
X86_64_V3 = dataclasses.replace(
    X86_64_V4, name=_V3, isas=(_V3,), lanes=8, registers=16, int8_gain=1.0
)
X86_64 = dataclasses.replace(X86_64_V4, name="x86-64", isas=(_V3, _V4))
X86_64_WINDOWS = dataclasses.replace(X86_64, name="x86-64-windows", triple="x86_64-windows-gnu")
