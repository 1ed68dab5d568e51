"""Where packages that hold models and data lie; they are read as plain files, never imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def package_folder(package: str, missing: str) -> Path:
    """Folder of an installed package.

    Args:
        package: Its import name.
        missing: What to say where it is not installed.

    Raises:
        RuntimeError: It is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(missing)
    return Path(spec.submodule_search_locations[0])
