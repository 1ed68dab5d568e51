"""Writing a file completely or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path


def write_aside(path: Path, text: str) -> None:
    """Write text to a file beside ``path``, then rename it; an older file is replaced.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".aside-") as aside:
        scratch = Path(aside) / path.name
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)


__all__ = ["write_aside"]
