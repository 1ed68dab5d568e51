"""Kernels that TVM wrote in CUDA, as a library of the host: those without barriers."""

from __future__ import annotations

import re
from pathlib import Path

from sparsecc.backends.codegen.toolchain import run_zig

_HEAD = """
#include <stdint.h>
#define __global__
#define __restrict__
#define __launch_bounds__(most)
typedef _Float16 half;
typedef struct { unsigned x, y, z; } sides;
static thread_local sides blockIdx, threadIdx;
template <typename T> static T max(T a, T b) { return a > b ? a : b; }
template <typename T> static T min(T a, T b) { return a < b ? a : b; }
"""
_KERNEL = re.compile(r'extern "C" __global__ void __launch_bounds__\(\d+\) (\w+)\(([^)]*)\);')
_LOOP = """
extern "C" const int count_%s = %d;
extern "C" void run_%s(void **p, const unsigned *sizes) {
  for (blockIdx.y = 0; blockIdx.y < sizes[1]; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < sizes[0]; ++blockIdx.x)
      for (threadIdx.y = 0; threadIdx.y < sizes[4]; ++threadIdx.y)
        for (threadIdx.x = 0; threadIdx.x < sizes[3]; ++threadIdx.x) %s(%s);
}
"""


def build(source: str, folder: Path) -> None:
    """Write ``dense.so`` with a function ``run_NAME`` and a number ``count_NAME`` for each kernel.

    The function takes the addresses of the kernel's arguments, of which there are so many, and the
    sizes of grid and block.
    """
    assert "__syncthreads" not in source
    found = dict(_KERNEL.findall(source))
    loops = []
    for name, declared in found.items():
        given = _given(declared)
        loops.append(_LOOP % (name, len(given), name, name, ", ".join(given)))
    text = _HEAD + source[source.index('extern "C" __global__') :] + "".join(loops)
    (folder / "dense.cc").write_text(text)
    run_zig(["c++", "-shared", "-O1", "-fPIC", "-nostdlib++", "dense.cc", "-o", "dense.so"], folder)


def _given(declared: str) -> list[str]:
    kinds = [each.replace("__restrict__", "").rsplit(" ", 1)[0] for each in declared.split(",")]
    return [f"*({kind} *)p[{at}]" for at, kind in enumerate(kinds)]
