"""The weights file of a bundle: a header, then every constant on a line of its own.

It is read where it lies: neither the library nor a web page copies it. ``docs/formats.md`` has the
layout, ``weights.c`` the other side.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsecc.aside import aside
from sparsecc.backends.kernels.table import RANK, TYPES
from sparsecc.errors import ArtifactError, BackendError

NAME = "weights.bin"
ALIGN = 64
FORMAT = 1

_MAGIC = b"sparsecc"
_HEADER = struct.Struct("<8sIIQQ32x")
_STEP, _FACTOR = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_U64 = (1 << 64) - 1
_MOST = (1 << 32) - 1
_WORDS = 1 << 15
"""Words hashed at once: they and what is computed of them stay in the second-level cache."""


@dataclass(frozen=True)
class Stored:
    """A constant in the file.

    Attributes:
        type: Position in :data:`TYPES`.
        dims: Its dimensions.
        line: Which line of :data:`ALIGN` bytes of the payload it begins at.
    """

    type: int
    dims: tuple[int, ...]
    line: int


@dataclass(frozen=True)
class Weights:
    """What a library says of its file.

    Attributes:
        stored: Every constant, in order.
        bytes: Of the payload.
        hash: Of the payload.
    """

    stored: tuple[Stored, ...]
    bytes: int
    hash: int


def hash_words(words: NDArray[np.uint64], first: int) -> int:
    """The sum of mixed words, number ``first`` of the payload being the first of them.

    Every word is mixed with its place by a permutation, so that one changed word always changes the
    sum; several do but for one case in 2^64.
    """
    places = np.arange(min(len(words), _WORDS), dtype=np.uint64) * _STEP
    total = 0
    for at in range(0, len(words), _WORDS):
        part = words[at : at + _WORDS]
        mixed = places[: len(part)] + np.uint64((first + at) * int(_STEP) & _U64)
        mixed += part
        mixed ^= mixed >> np.uint64(32)
        mixed *= _FACTOR
        mixed ^= mixed >> np.uint64(29)
        total += int(mixed.sum(dtype=np.uint64))
    return total & _U64


def _checked(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """An array as it is stored.

    Raises:
        BackendError: It is of a type or rank that the kernels do not know.
    """
    if array.dtype == np.bool_:
        array = array.view(np.uint8)
    if array.dtype.name not in TYPES or array.ndim > RANK or max(array.shape, default=0) > _MOST:
        raise BackendError(
            f"constant {name!r} is {array.dtype.name} of {array.ndim} dimensions; a bundle holds "
            f"{', '.join(TYPES)} and bool of at most {RANK}",
            fix="convert it in the model before compiling",
        )
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _lines(array: NDArray[Any]) -> Iterable[NDArray[np.uint64]]:
    """The words of an array, zeros filling up the last line."""
    flat = array.reshape(-1).view(np.uint8)
    whole = len(flat) // ALIGN * ALIGN
    yield flat[:whole].view(np.uint64)
    if whole < len(flat):
        last = np.zeros(ALIGN, np.uint8)
        last[: len(flat) - whole] = flat[whole:]
        yield last.view(np.uint64)


def write_weights(
    constants: Mapping[str, NDArray[Any]], names: Iterable[str], path: Path
) -> Weights:
    """Write the file, whole or not at all.

    Args:
        constants: Arrays by name.
        names: Which of them, in order.
        path: Where to.

    Raises:
        BackendError: A constant is of a type that the kernels do not know.
        ArtifactError: The file cannot be written.
    """
    stored, offset, total = [], 0, 0
    try:
        with aside(path) as scratch, scratch.open("wb") as file:
            file.write(bytes(ALIGN))
            for name in names:
                array = _checked(name, constants[name])
                stored.append(Stored(TYPES.index(array.dtype.name), array.shape, offset // ALIGN))
                for words in _lines(array):
                    total += hash_words(words, offset // 8)
                    file.write(words.data)
                    offset += words.nbytes
            total &= _U64
            file.seek(0)
            file.write(_HEADER.pack(_MAGIC, FORMAT, 0, total, offset))
    except OSError as error:
        raise ArtifactError(
            f"cannot write {path}: {error}", fix="choose a folder that can be written and has room"
        ) from error
    return Weights(tuple(stored), offset, total)
