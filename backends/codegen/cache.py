"""Files that were built, kept for the next time; those not used for longest make room."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from sparsecc.aside import aside
from sparsecc.errors import BackendError

LIMIT = 1 << 30
"""Bytes of all built files together: one model's come to some hundred KB, all kernels of all
targets to some ten MB."""
_BUILT = "built"


def cache_dir() -> Path:
    """Folder of what may be deleted: ``$XDG_CACHE_HOME/sparsecc``, else ``~/.cache/sparsecc``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sparsecc"


def place_of(key: str, name: str) -> Path:
    """Where a file is kept.

    Args:
        key: A hash of all that it is made of.
        name: Its name.
    """
    return cache_dir() / _BUILT / key / name


def is_kept(place: Path) -> bool:
    """Whether a file is there; then it counts as used now."""
    with contextlib.suppress(OSError):  # not there, or not ours to write
        os.utime(place)
    return place.exists()


def keep(made: Path, place: Path) -> None:
    """Copy a file to its place, where it appears whole or not at all, and make room for it.

    Several processes may do so at once: the last one's file, which is identical, stays.

    Raises:
        BackendError: The cache cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with aside(place) as scratch:
            shutil.copy(made, scratch)
        _make_room(place)
    except OSError as error:
        raise BackendError(
            f"cannot write the build cache {cache_dir()}: {error}",
            fix="set XDG_CACHE_HOME to a writable folder with room",
        ) from error


def _make_room(latest: Path) -> None:
    """Delete what was not used for longest until the rest is within :data:`LIMIT`."""
    files = sorted(_files(), key=lambda each: each[1])
    over = sum(size for _, _, size in files) - LIMIT
    for path, _, size in files:
        if over <= 0:
            return
        if path != latest:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something else is in it
                path.parent.rmdir()
            over -= size


def _files() -> Iterator[tuple[Path, int, int]]:
    """Every built file, when it was used last, and its bytes."""
    for folder in _inside(cache_dir() / _BUILT):
        for path in _inside(folder):
            with contextlib.suppress(FileNotFoundError):
                known = path.stat()
                if stat.S_ISREG(known.st_mode):
                    yield path, known.st_mtime_ns, known.st_size


def _inside(folder: Path) -> list[Path]:
    """What is in a folder; nothing where another process deleted it meanwhile."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return list(folder.iterdir())
    return []
