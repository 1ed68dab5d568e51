"""Triton and nvcc, found at their first use, in the versions that what is built is checked with."""

from __future__ import annotations

import functools
import importlib
from importlib import metadata
from pathlib import Path
from typing import Any

from sparsecc.errors import BackendError

PIN = "3.7.1"
"""The one that torch 2.13 comes with; what the table says is of its builds."""
FIX = f"pip install 'sparsecc[gpu]', which is pip install triton=={PIN}"
NVCC_PINS = {
    "nvidia-cuda-cccl": "13.0.85",
    "nvidia-cuda-nvcc": "13.0.88",
    "nvidia-cuda-crt": "13.0.88",
    "nvidia-nvvm": "13.0.88",
}
"""Packages that compile CUDA C++, with their versions."""
NVCC_FIX = "pip install 'sparsecc[gpu]', which is pip install " + " ".join(
    f"{name}=={version}" for name, version in NVCC_PINS.items()
)
_KERNELS = "sparsecc.backends.cuda.kernels"


@functools.cache
def load() -> Any:
    """The module ``triton``.

    Raises:
        BackendError: It is missing, or does not load.
    """
    try:
        return importlib.import_module("triton")
    except ImportError as error:
        raise BackendError(f"kernels for GPUs need triton: {error}", fix=FIX) from error


def load_pinned() -> Any:
    """The module ``triton`` in the version of the table.

    Raises:
        BackendError: It is missing, of another version, or does not load.
    """
    module = load()
    if module.__version__ != PIN:
        raise BackendError(
            f"kernels are built with triton {PIN}; here is {module.__version__}", fix=FIX
        )
    return module


def function(module: str, name: str) -> Any:
    """A Triton function of :mod:`sparsecc.backends.cuda.kernels`.

    Raises:
        BackendError: Triton is missing, or does not load.
    """
    load()
    return getattr(importlib.import_module(f"{_KERNELS}.{module}"), name)


@functools.cache
def nvcc() -> Path:
    """The compiler of CUDA C++: always the one of Python's packages, so that all build the same.

    Raises:
        BackendError: A package of it is missing or of another version.
    """
    for name, version in NVCC_PINS.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError as error:
            raise BackendError(f"kernels in CUDA C++ need {name}", fix=NVCC_FIX) from error
        if found != version:
            raise BackendError(
                f"kernels are built with {name} {version}; here is {found}", fix=NVCC_FIX
            )
    return Path(str(metadata.distribution("nvidia-cuda-nvcc").locate_file("nvidia/cu13/bin/nvcc")))


def sources(module: str) -> dict[str, str]:
    """Text of a file of CUDA C++ of ``kernels/`` and of the headers it may include, by name."""
    folder = Path(__file__).parent / "kernels"
    files = [folder / f"{module}.cu", *sorted(folder.glob("*.h"))]
    return {file.name: file.read_text() for file in files}
