"""Text for the reader: the code of Python's own library, which every installation has on disk."""

from __future__ import annotations

import sysconfig
import zlib
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from examples._text import SKIPPED
from examples.relu_experts.model import CHARACTERS, CONTEXT

Split = Literal["train", "test"]

TABLES = {"encodings", "pydoc_data"}
"""Folders of tables and manuals rather than code."""
TEST_EVERY = 10
"""One file of so many is held out, by the checksum of its path."""


@cache
def code(split: Split) -> Tensor:
    """Codes of ASCII of all files of a split, one after the other; what is no ASCII is a `?`."""
    root = Path(sysconfig.get_paths()["stdlib"])
    inner = [file.relative_to(root) for file in sorted(root.rglob("*.py"))]
    files = [path for path in inner if not (SKIPPED | TABLES) & set(path.parts)]
    chosen = [path for path in files if _split_of(path) == split]
    whole = b"".join((root / path).read_bytes() for path in chosen)
    codes = torch.frombuffer(bytearray(whole), dtype=torch.uint8).long()
    return torch.where(codes < CHARACTERS, codes, ord("?"))


def _split_of(path: Path) -> Split:
    return "test" if zlib.crc32(path.as_posix().encode()) % TEST_EVERY == 0 else "train"


def windows(split: Split, count: int, seed: int, length: int = CONTEXT) -> tuple[Tensor, Tensor]:
    """Random windows ``[count, length]`` of a split, and the character behind each of theirs."""
    text = code(split)
    starts = torch.randint(
        len(text) - length, (count, 1), generator=torch.Generator().manual_seed(seed)
    )
    places = starts + torch.arange(length)
    return text[places], text[places + 1]
