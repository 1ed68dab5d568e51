"""The execution provider, built once and known to ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnxruntime as ort
import pytest

from sparsecc import targets
from sparsecc.backends.onnxruntime.ep import execution_provider

REGISTERED = "sparsecc-tests"


@pytest.fixture(scope="module")
def library() -> Path:
    """The library with the execution provider."""
    target = targets.get("x86-64")
    if not targets.runs_here(target):
        pytest.skip("this machine does not run x86-64")
    return execution_provider(target.name)


@pytest.fixture(scope="module")
def provider(library: Path) -> Iterator[None]:
    """Sessions find the execution provider."""
    ort.register_execution_provider_library(REGISTERED, str(library))
    yield
    ort.unregister_execution_provider_library(REGISTERED)
