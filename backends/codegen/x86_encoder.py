"""Bytes of the few AVX-512 instructions that generated kernels consist of.

Every function encodes many instructions of one kind at once: operands are arrays (or one number
for all), the result is a table with one row of bytes per instruction. :func:`assemble` then puts
rows of several tables in order. An instruction of 64-byte vectors has a four-byte EVEX prefix
(Intel SDM vol. 2, 2.7), an opcode, a ModRM byte and a displacement: one byte that counts in units
of the access (disp8*N) where it fits, four bytes otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RDX, RSI, RDI = 2, 6, 7
RCX, R8, R9, R10, R11 = 1, 8, 9, 10, 11
LONGEST = 10
"""Bytes of the longest instruction made here."""


@dataclass(frozen=True)
class Instructions:
    """Encoded instructions.

    Attributes:
        code: uint8 ``[n, LONGEST]``; what lies beyond an instruction's length has no meaning.
        length: int64 ``[n]``.
    """

    code: NDArray[np.uint8]
    length: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.length)


@dataclass(frozen=True)
class _Form:
    """A row of the opcode tables: opcode, its map, mandatory prefix, bytes of a memory operand."""

    opcode: int
    map: int
    prefix: int
    bytes: int = 64
    broadcast: bool = False


_LOAD = _Form(0x10, 1, 0)
_STORE = _Form(0x11, 1, 0)
_MIN = _Form(0x5D, 1, 0)
_MAX = _Form(0x5F, 1, 0)
_BROADCAST = _Form(0x18, 2, 1, 4)
_FMA_BROADCAST = _Form(0xB8, 2, 1, 4, broadcast=True)


def load(register: ArrayLike, base: int, displacement: ArrayLike) -> Instructions:
    """``vmovups zmm, [base + displacement]``."""
    return _memory(_LOAD, register, 0, base, displacement)


def store(base: int, displacement: ArrayLike, register: ArrayLike) -> Instructions:
    """``vmovups [base + displacement], zmm``."""
    return _memory(_STORE, register, 0, base, displacement)


def broadcast(register: ArrayLike, base: int, displacement: ArrayLike) -> Instructions:
    """``vbroadcastss zmm, dword [base + displacement]``."""
    return _memory(_BROADCAST, register, 0, base, displacement)


def fma_broadcast(
    register: ArrayLike, a: ArrayLike, base: int, displacement: ArrayLike
) -> Instructions:
    """``vfmadd231ps zmm, zmm, dword [base + displacement]{1to16}``."""
    return _memory(_FMA_BROADCAST, register, a, base, displacement)


def minimum(register: ArrayLike, a: ArrayLike, b: ArrayLike) -> Instructions:
    """``vminps zmm, zmm, zmm``; where one is a NaN the result is b."""
    return _registers(_MIN, register, a, b)


def maximum(register: ArrayLike, a: ArrayLike, b: ArrayLike) -> Instructions:
    """``vmaxps zmm, zmm, zmm``; where one is a NaN the result is b."""
    return _registers(_MAX, register, a, b)


def add(register: int, amount: ArrayLike) -> Instructions:
    """``add r64, imm32`` for the first eight registers."""
    amounts = np.atleast_1d(np.asarray(amount, np.int64))
    code = _table(len(amounts))
    code[:, :3] = (0x48, 0x81, 0xC0 | register)
    code[:, 3:7] = _little_endian(amounts)
    return Instructions(code, np.full(len(code), 7))


def add_register(register: int, other: int, count: int) -> Instructions:
    """``add r64, r64`` for the first eight registers, ``count`` of them."""
    return _fixed((0x48, 0x01, 0xC0 | other << 3 | register), count)


def pointer(register: int, base: int, displacement: int, count: int) -> Instructions:
    """``mov r64, [base + displacement]`` among registers 8 to 15, ``count`` of them."""
    return _fixed((0x4D, 0x8B, 0x40 | (register & 7) << 3 | base & 7, displacement), count)


def prefetch(base: int, displacement: ArrayLike) -> Instructions:
    """``prefetcht0 [base + displacement]`` for registers 8 to 15."""
    at = np.atleast_1d(np.asarray(displacement, np.int64))
    code = _table(len(at))
    code[:, :4] = (0x41, 0x0F, 0x18, 0x88 | base & 7)
    code[:, 4:8] = _little_endian(at)
    return Instructions(code, np.full(len(code), 8))


def leave(count: int) -> Instructions:
    """``vzeroupper; ret``, ``count`` of them."""
    return _fixed((0xC5, 0xF8, 0x77, 0xC3), count)


def assemble(
    parts: Sequence[tuple[NDArray[np.int64], Instructions]],
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Put instructions in order.

    Args:
        parts: Tables with a key for each row; the keys of all parts are different.

    Returns:
        The code; the keys in ascending order; where the instruction of each key begins.
    """
    keys = np.concatenate([key for key, _ in parts])
    order = np.argsort(keys)
    code = np.concatenate([part.code for _, part in parts])[order]
    length = np.concatenate([part.length for _, part in parts])[order]
    begin = np.cumsum(length) - length
    return code[np.arange(LONGEST) < length[:, None]], keys[order], begin


def _table(count: int) -> NDArray[np.uint8]:
    return np.zeros((count, LONGEST), np.uint8)


def _fixed(values: tuple[int, ...], count: int) -> Instructions:
    code = _table(count)
    code[:, : len(values)] = values
    return Instructions(code, np.full(count, len(values)))


def _little_endian(values: NDArray[np.int64]) -> NDArray[np.uint8]:
    return values.astype("<i4")[:, None].view(np.uint8)


def _prefix(
    form: _Form, code: NDArray[np.uint8], reg: NDArray[np.int64], vvvv: NDArray[np.int64]
) -> None:
    """The EVEX prefix without the bits of the last operand, and the opcode."""
    code[:, 0] = 0x62
    code[:, 1] = 0x60 | (~reg & 8) << 4 | (~reg & 16) | form.map
    code[:, 2] = (~vvvv & 15) << 3 | 4 | form.prefix
    code[:, 3] = 0x40 | form.broadcast << 4 | (~vvvv & 16) >> 1
    code[:, 4] = form.opcode


def _registers(form: _Form, reg: ArrayLike, vvvv: ArrayLike, rm: ArrayLike) -> Instructions:
    regs, sources, rms = _operands(reg, vvvv, rm)
    code = _table(len(regs))
    _prefix(form, code, regs, sources)
    code[:, 1] ^= ((rms & 8) << 2 | (rms & 16) << 2).astype(np.uint8)
    code[:, 5] = 0xC0 | (regs & 7) << 3 | rms & 7
    return Instructions(code, np.full(len(code), 6))


def _memory(
    form: _Form, reg: ArrayLike, vvvv: ArrayLike, base: int, displacement: ArrayLike
) -> Instructions:
    regs, sources, at = _operands(reg, vvvv, displacement)
    units, rest = np.divmod(at, form.bytes)
    short = (rest == 0) & (units >= -128) & (units < 128)
    code = _table(len(regs))
    _prefix(form, code, regs, sources)
    code[:, 1] ^= (base & 8) << 2
    code[:, 5] = np.where(short, 0x40, 0x80) | (regs & 7) << 3 | base & 7
    code[:, 6:10] = _little_endian(np.where(short, units, at))
    return Instructions(code, np.where(short, 7, 10))


def _operands(*values: ArrayLike) -> list[NDArray[np.int64]]:
    """The operands as equally long arrays."""
    return [
        np.atleast_1d(array)
        for array in np.broadcast_arrays(*(np.asarray(v, np.int64) for v in values))
    ]
