"""Natural English from what every installation has on disk: the docstrings of Python's own library.

Used for calibration and test text; nothing is downloaded and nothing ships with the examples.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import zlib
from functools import cache
from pathlib import Path
from typing import Literal

Split = Literal["calibration", "test"]

SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
SENTENCE = re.compile(r"[A-Z][a-z]*(?:,? [A-Za-z][a-z]*(?:'[a-z]+)?)+\.")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _docstrings(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # the library holds files that are broken on purpose
        return []
    nodes = [node for node in ast.walk(tree) if isinstance(node, DOCUMENTED)]
    return [text for node in nodes if (text := ast.get_docstring(node))]


def split_of(text: str) -> Split:
    """The split `text` belongs to, by its checksum: no text is ever in both, whatever the seeds."""
    return "test" if zlib.crc32(text.lower().encode()) % 3 == 0 else "calibration"


@cache
def sentences(split: Split, shortest: int = 6, longest: int = 24) -> tuple[str, ...]:
    """Distinct English sentences of plain words.

    Args:
        split: Which of the two disjoint halves.
        shortest: Fewest words in a sentence.
        longest: Most words in a sentence.

    Returns:
        Sentences ordered by checksum, so that neighbours come from different files.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    inner = [file.relative_to(root) for file in sorted(root.rglob("*.py"))]
    files = [root / file for file in inner if not SKIPPED & set(file.parts)]
    docs = [doc for file in files for doc in _docstrings(file)]
    found: dict[str, str] = {}
    for paragraph in (part for doc in docs for part in doc.split("\n\n")):
        for sentence in re.split(r"(?<=\.)\s+", " ".join(paragraph.split())):
            if SENTENCE.fullmatch(sentence) and shortest <= len(sentence.split()) <= longest:
                found.setdefault(sentence.lower(), sentence)
    chosen = [text for text in found.values() if split_of(text) == split]
    return tuple(sorted(chosen, key=lambda text: (zlib.crc32(text.encode()), text)))
