"""Generated code as the C kernels find it: ``sc_codes`` of ``backends/kernels/codes.h``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.codegen.outer_product import outer_product

_ALIGN = 64
_RECORD = 7 * 8
_ASSEMBLY = """\
# Generated from sparsecc/backends/codegen/code_table.py.
    .section .data.rel.ro, "aw", @progbits
    .hidden sc_codes
    .globl sc_codes
    .balign 8
sc_codes:
    .quad {count}, .Lcodes, .Lcells, .Ltext
    .section .rodata
    .balign 8
.Lcodes:
    .incbin "{codes}"
.Lcells:
    .incbin "{cells}"
    .text
    .balign 64
.Ltext:
    .incbin "{text}"
    .section .note.GNU-stack, "", @progbits
"""
_U64 = (1 << 64) - 1


@dataclass(frozen=True)
class Pattern:
    """Where a weight ``W[rows, depth]`` is not zero.

    Attributes:
        index: int32, ascending ``row * depth + column``.
        rows: Outputs.
        depth: Inputs of an output.
    """

    index: NDArray[np.int32]
    rows: int
    depth: int

    @property
    def key(self) -> int:
        """A hash of 64 bits, the same as ``sc_pattern_key``: what the kernel looks code up by."""
        with np.errstate(over="ignore"):
            mixed = _mix(self.index.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
            key = np.array([mixed.sum(dtype=np.uint64)])
            for size in (self.rows, self.depth, len(self.index)):
                key = _mix(key ^ np.uint64(size))
        return int(key[0])


def _mix(v: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64."""
    v = (v ^ v >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    v = (v ^ v >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return v ^ v >> np.uint64(31)


@dataclass(frozen=True)
class CodeTable:
    """Code of several patterns.

    Attributes:
        codes: One record per pattern: key, rows, depth, non-zeros, first cell, strips, chunks.
        cells: int64 ``[n, 2]``: entry and stream of every cell; one more ends each pattern.
        text: Machine code.
    """

    codes: bytes
    cells: NDArray[np.int64]
    text: bytes

    @property
    def count(self) -> int:
        """Number of patterns."""
        return len(self.codes) // _RECORD

    def files(self, name: str) -> dict[str, bytes]:
        """An assembler source ``<name>.s`` that defines ``sc_codes``, and what it includes."""
        parts = {
            "codes": self.codes,
            "cells": self.cells.astype("<i8").tobytes(),
            "text": self.text,
        }
        names = {part: f"{name}-{part}.bin" for part in parts}
        source = _ASSEMBLY.format(count=self.count, **names)
        files = {names[part]: content for part, content in parts.items()}
        return {f"{name}.s": source.encode(), **files}


def code_table(patterns: Iterable[Pattern]) -> CodeTable:
    """Generate the code of patterns; equal ones share it."""
    codes, cells, texts = [], [], []
    first = begin = 0
    for key, pattern in {pattern.key: pattern for pattern in patterns}.items():
        made = outer_product(pattern.index, pattern.rows, pattern.depth)
        entries = begin + np.append(made.entries, len(made.code))
        grid = (len(made.entries) // made.chunks, made.chunks)
        sizes = (pattern.rows, pattern.depth, len(pattern.index), first, *grid)
        codes.append(key.to_bytes(8, "little") + np.array(sizes, "<i8").tobytes())
        cells.append(np.stack([entries, made.streams], axis=1))
        texts.append(made.code.tobytes() + bytes(-len(made.code) % _ALIGN))
        first, begin = first + len(entries), begin + len(texts[-1])
    none = np.zeros((0, 2), np.int64)
    return CodeTable(b"".join(codes), np.concatenate([none, *cells]), b"".join(texts))
