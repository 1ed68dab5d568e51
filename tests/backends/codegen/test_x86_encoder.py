"""Bytes of the encoder against a disassembler."""

from __future__ import annotations

import capstone
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.backends.codegen import x86_encoder as x86

BASES = {x86.RDX: "rdx", x86.RSI: "rsi", x86.RDI: "rdi", x86.RCX: "rcx", x86.R8: "r8"}
VECTORS = st.integers(0, 31)
DISPLACEMENTS = st.one_of(
    st.integers(-140, 140).map(lambda n: 64 * n),
    st.integers(-140, 140).map(lambda n: 4 * n),
    st.integers(-(2**31), 2**31 - 1),
)
ANY_BASE = st.sampled_from(list(BASES))


def disassemble(made: x86.Instructions) -> list[str]:
    """Text of each instruction; every byte of its length must belong to it."""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    texts = []
    for code, length in zip(made.code, made.length, strict=True):
        decoded = list(decoder.disasm(code[:length].tobytes(), 0))
        assert sum(each.size for each in decoded) == length
        texts.append("; ".join(f"{each.mnemonic} {each.op_str}".strip() for each in decoded))
    return texts


def address(base: int, displacement: int, size: str) -> str:
    sign = "-" if displacement < 0 else "+"
    # Capstone writes small numbers as decimals.
    amount = abs(displacement)
    shown = f"{amount:#x}" if amount > 9 else str(amount)
    tail = f" {sign} {shown}" if displacement else ""
    return f"{size} ptr [{BASES[base]}{tail}]"


@given(VECTORS, ANY_BASE, DISPLACEMENTS)
def test_loads_stores_and_broadcasts(zmm: int, base: int, at: int) -> None:
    wide, narrow = address(base, at, "zmmword"), address(base, at, "dword")
    assert disassemble(x86.load(zmm, base, at)) == [f"vmovups zmm{zmm}, {wide}"]
    assert disassemble(x86.store(base, at, zmm)) == [f"vmovups {wide}, zmm{zmm}"]
    assert disassemble(x86.broadcast(zmm, base, at)) == [f"vbroadcastss zmm{zmm}, {narrow}"]


@given(VECTORS, VECTORS, ANY_BASE, DISPLACEMENTS)
def test_multiply_adds(zmm: int, a: int, base: int, at: int) -> None:
    number = address(base, at, "dword")
    (text,) = disassemble(x86.fma_broadcast(zmm, a, base, at))
    assert text == f"vfmadd231ps zmm{zmm}, zmm{a}, {number}{{1to16}}"


@pytest.mark.parametrize("base", [x86.R10, x86.R11])
def test_pointers_and_prefetches(base: int) -> None:
    assert disassemble(x86.pointer(base, x86.R8, 16, 1)) == [f"mov r{base}, qword ptr [r8 + 0x10]"]
    assert disassemble(x86.prefetch(base, [0, 64])) == [
        f"prefetcht0 byte ptr [r{base}]",
        f"prefetcht0 byte ptr [r{base} + 0x40]",
    ]


@given(VECTORS, VECTORS, VECTORS)
def test_bounds(zmm: int, a: int, b: int) -> None:
    assert disassemble(x86.minimum(zmm, a, b)) == [f"vminps zmm{zmm}, zmm{a}, zmm{b}"]
    assert disassemble(x86.maximum(zmm, a, b)) == [f"vmaxps zmm{zmm}, zmm{a}, zmm{b}"]


@given(st.integers(10, 2**31 - 1))
def test_pointers_move(amount: int) -> None:
    assert disassemble(x86.add(x86.RSI, amount)) == [f"add rsi, {amount:#x}"]


def test_fixed_instructions() -> None:
    assert disassemble(x86.add_register(x86.RDX, x86.RCX, 2)) == ["add rdx, rcx"] * 2
    assert disassemble(x86.leave(1)) == ["vzeroupper; ret"]


def test_a_near_displacement_takes_one_byte() -> None:
    assert x86.load(0, x86.RDI, [-8192, 8128, 8192, 4]).length.tolist() == [7, 7, 10, 10]
    assert x86.fma_broadcast(0, 1, x86.RSI, [-512, 508, 512, 2]).length.tolist() == [7, 7, 10, 10]


def test_parts_are_put_in_order() -> None:
    loads, adds = x86.load([1, 2], x86.RDI, 0), x86.add(x86.RSI, [16, 32])
    code, keys, begin = x86.assemble([(np.array([3, 0]), loads), (np.array([2, 7]), adds)])
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoded = list(decoder.disasm(code.tobytes(), 0))
    assert [each.op_str.split(",")[0] for each in decoded] == ["zmm2", "rsi", "zmm1", "rsi"]
    assert keys.tolist() == [0, 2, 3, 7]
    assert begin.tolist() == [each.address for each in decoded]
