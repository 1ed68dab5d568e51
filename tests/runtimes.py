"""An environment with the oldest onnxruntime that artifacts are promised to run on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

OLD_RUNTIME = "1.20.1"


def old_environment() -> Path:
    """The environment's folder, made at the first call and kept in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    cache = (Path(base) if base else Path.home() / ".cache") / "sparsecc-tests"
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    home = cache / f"onnxruntime-{OLD_RUNTIME}-py{version}"
    if not home.exists():
        _install(home)
    return home


def _install(home: Path) -> None:
    """Make the environment at ``home``, aside first so that test workers do not collide."""
    home.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=home.parent))
    pip = [fresh / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([sys.executable, "-m", "venv", fresh], check=True, capture_output=True)
    subprocess.run([*pip, f"onnxruntime=={OLD_RUNTIME}"], check=True, capture_output=True)
    try:
        fresh.rename(home)
    except OSError:  # another worker was first
        shutil.rmtree(fresh)
