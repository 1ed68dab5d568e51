"""Settings shared by all tests."""

from __future__ import annotations

import gc
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.runtimes import OLD_RUNTIME, old_environment

settings.register_profile(
    "sparsecc",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("sparsecc")


@pytest.fixture(scope="session")
def old_python() -> Path:
    """A Python that has the old runtime; the environment is cached between runs."""
    try:
        return old_environment() / "bin" / "python"
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"onnxruntime {OLD_RUNTIME} cannot be installed: {error}")


def pytest_collection_finish() -> None:
    """Collecting garbage does not look again at what was imported: it takes a second each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
