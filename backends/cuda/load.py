"""Triton, imported at its first use; ahead of time it builds in the version that is checked."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from sparsecc.errors import BackendError

PIN = "3.7.1"
"""The one that torch 2.13 comes with; what the table says is of its builds."""
FIX = f"pip install 'sparsecc[gpu]', which is pip install triton=={PIN}"
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
