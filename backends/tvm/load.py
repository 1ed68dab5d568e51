"""TVM, imported at its first use, and only in versions that are known to work together."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from typing import Any

from sparsecc.errors import BackendError

PINS = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}
"""The compiler and its foreign-function interface. Their interfaces change between releases, and
with other pairs saving modules and tuning crash."""

EXTRA = "tvm"
"""Extra of this package that installs them."""


@functools.cache
def load() -> Any:
    """The module ``tvm``. Importing it takes seconds: nothing else in the project does.

    Raises:
        BackendError: TVM is missing, of another version, or does not load.
    """
    found = {name: _version(name) for name in PINS}
    if found != PINS:
        has = ", ".join(f"{name} {version or 'is missing'}" for name, version in found.items())
        wanted = " and ".join(f"{name} {version}" for name, version in PINS.items())
        raise BackendError(f"this needs {wanted}; here {has}", fix=_install())
    try:
        module = importlib.import_module("tvm")
        for part in ("relax.frontend.onnx.onnx_frontend", "s_tir", "tirx", "topi"):
            importlib.import_module(f"tvm.{part}")
    except Exception as error:  # a broken binary raises whatever it likes
        raise BackendError(f"TVM does not load: {error}", fix=_install()) from error
    return module


def tvm_ffi() -> Any:
    """The module ``tvm_ffi``, which walks and maps TVM's trees.

    Raises:
        BackendError: As :func:`load`.
    """
    load()
    return importlib.import_module("tvm_ffi")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _install() -> str:
    pinned = " ".join(f"{name}=={version}" for name, version in PINS.items())
    return f"pip install 'sparsecc[{EXTRA}]', which is pip install {pinned}"
