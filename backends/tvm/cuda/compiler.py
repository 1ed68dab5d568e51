"""CUDA source that TVM wrote as machine code."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from sparsecc.backends.codegen.cache import is_kept, keep, place_of
from sparsecc.backends.codegen.toolchain import STDERR_TAIL
from sparsecc.backends.cuda.kernel import Arch
from sparsecc.backends.cuda.load import NVCC_FIX, NVCC_PINS
from sparsecc.backends.cuda.nvcc import run_nvcc
from sparsecc.errors import BackendError

_SOURCE, _CODE = "kernels.cu", "kernels.cubin"
_FLAGS = ("-cubin", "-std=c++17", "-O3", "-w")


def cubin_of(source: str, arch: Arch) -> bytes:
    """The machine code of source, or what was made of it before.

    Raises:
        BackendError: nvcc is missing or of another version, or refuses it.
    """
    flags = (*_FLAGS, f"-arch={arch}")
    key = hashlib.sha256(repr((NVCC_PINS, flags, source)).encode()).hexdigest()[:32]
    place = place_of(key, _CODE)
    if not is_kept(place):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / _SOURCE).write_text(source, encoding="utf-8")
            failed, said = run_nvcc([*flags, _SOURCE, "-o", _CODE], Path(folder))
            if failed:
                raise BackendError(
                    f"nvcc cannot build what TVM wrote for {arch}:\n{said.strip()[-STDERR_TAIL:]}",
                    fix="install gcc, which nvcc calls, or " + NVCC_FIX,
                )
            keep(Path(folder) / _CODE, place)
    return place.read_bytes()
