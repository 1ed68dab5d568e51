"""WebAssembly in a browser or a server: 128-bit vectors, one thread.

Plain simd128 has no multiply-add, so that a product and a sum take a slot each; relaxed SIMD has.
A target with both variants is judged by the first, which every engine runs.
"""

import dataclasses

from sparsecc.targets.base import Target

WASM = Target(
    name="wasm",
    family="wasm",
    triple="wasm32-freestanding",
    isas=("wasm-simd128", "wasm-relaxed"),
    lanes=4,
    fma_ports=1.0,
    registers=16,
    ghz=3.0,
    threads=1,
    caches=(32 << 10, 512 << 10, 8 << 20),
    bandwidths=(90.0, 60.0, 40.0, 10.0),
    int8_gain=1.0,
    backend="bundle",
)
WASM_RELAXED = dataclasses.replace(
    WASM, name="wasm-relaxed", isas=("wasm-relaxed",), fma_ports=2.0, int8_gain=2.0
)
