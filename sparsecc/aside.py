"""Writing a file completely or not at all."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place when the block ends well.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".aside-") as folder:
        scratch = Path(folder) / path.name
        yield scratch
        scratch.replace(path)


def write_aside(path: Path, text: str) -> None:
    """Write text to a file beside ``path``, then rename it; an older file is replaced.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    with aside(path) as scratch:
        scratch.write_bytes(text.encode())  # text would have other ends of lines on Windows


__all__ = ["aside", "write_aside"]
