"""A virtual environment per peer, made once: `~/.cache/sparsecc/peers/<name>-<version>`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers import Peer, UnavailableError
from sparsecc.backends.codegen.cache import cache_dir

INSTALL_LIMIT_S = 900
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
FEW_RETRIES = ("--retries", "1")
STAMP = "installed.txt"


def python_of(peer: Peer, say: Callable[[str], None], home: Path | None = None) -> Path:
    """The interpreter of a peer's environment, which is made first if it is not there.

    Args:
        peer: A row of the table.
        say: Told what takes time.
        home: Folder of the environments.

    Raises:
        UnavailableError: There is no Python it runs on, or its packages cannot be installed.
    """
    folder = (home or cache_dir() / "peers") / f"{peer.name}-{peer.version}"
    stamp, wanted = folder / STAMP, "\n".join(peer.packages)
    python = folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return python
    base = interpreter(peer.python)
    say(f"installing {peer.title} {peer.version}")
    shutil.rmtree(folder, ignore_errors=True)
    _call([base, "-m", "venv", str(folder)])
    _call([str(python), *PIP, *FEW_RETRIES, *peer.packages])
    stamp.write_text(wanted)
    return python


def interpreter(newest: str) -> str:
    """A Python no newer than `newest` ("" for any): this one, or the newest such on the path.

    Raises:
        UnavailableError: There is none.
    """
    if not newest or sys.version_info[:2] <= _numbers(newest):
        return sys.executable
    major, minor = _numbers(newest)
    names = [f"python{major}.{older}" for older in range(minor, 7, -1)]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise UnavailableError(f"needs Python {newest} or older")
    return found


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _call(command: list[str]) -> None:
    # PYTHON* variables are meant for the interpreter that runs us.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=INSTALL_LIMIT_S, env=clean
        )
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.strip().splitlines() if line.startswith("ERROR")]
        why = lines[-1].removeprefix("ERROR: ") if lines else f"code {error.returncode}"
        raise UnavailableError(f"cannot be installed: {why}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"cannot be installed: {error}") from error
