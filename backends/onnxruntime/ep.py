"""The execution provider: a pruned ONNX file runs sparse as it is, without being compiled."""

from __future__ import annotations

from pathlib import Path

from sparsecc import targets
from sparsecc.backends.onnxruntime.library import build_library

NAME = "SparseccEP"
"""``ep_name`` of the device that the library offers once it is registered."""


def execution_provider(target: str = "native") -> Path:
    """Build the library whose execution provider runs pruned ONNX files sparse, as they are.

    Register it with ONNX Runtime 1.24 or newer; docs/execution-provider.md shows how. Later calls
    find the library in the cache.

    Args:
        target: ``native``, a name such as ``x86-64``, or the path of a target file.

    Returns:
        Path of the library; it depends on nothing and may be copied.

    Raises:
        TargetError: The target is unknown, or this machine has no kernels.
        BackendError: The library could not be built.
    """
    return build_library(targets.buildable(targets.read(target)))
