"""TVM is imported late, and only where both packages are the ones that work together."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sparsecc.backends.tvm import load as loading
from sparsecc.errors import BackendError

ROOT = Path(__file__).parents[3]


def test_the_extra_has_the_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [f"{name}=={version}" for name, version in loading.PINS.items()]
    assert project["optional-dependencies"][loading.EXTRA] == wanted


def test_nothing_imports_it_before_it_is_needed() -> None:
    code = "import sparsecc.backends.tvm.externs, sparsecc.cli, sys; print('tvm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("found", ["0.1.15.post2", ""])
def test_another_pair_is_one_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name != "apache-tvm-ffi":
            return known(name)
        if not found:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    loading.load.cache_clear()
    try:
        with pytest.raises(BackendError) as raised:
            loading.load()
    finally:
        loading.load.cache_clear()
    assert f"apache-tvm-ffi {found or 'is missing'}" in raised.value.message
    assert "pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1" in str(raised.value)
