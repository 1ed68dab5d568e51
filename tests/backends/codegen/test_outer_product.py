"""Generated code, disassembled and carried out one instruction at a time."""

from __future__ import annotations

import time

import capstone
import numpy as np
import pytest
from capstone import x86 as names
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecc.backends.codegen.code_table import Pattern, code_table
from sparsecc.backends.codegen.outer_product import (
    EVERY,
    KINDS,
    LANES,
    ROWS,
    WINDOW,
    OuterProduct,
    chunk_bounds,
    outer_product,
    strip_bounds,
)

Floats = NDArray[np.float64]


class Machine:
    """What the instructions of a cell can do; memory of each pointer is an array of floats."""

    def __init__(self, panel: Floats, stream: Floats, sums: Floats, bounds: tuple[float, float]):
        self.results = np.full(sums.shape, np.nan)
        self._memory = {
            "rdi": panel.reshape(-1),
            "rsi": stream,
            "rdx": self.results.reshape(-1),
            "r8": np.array([*bounds, np.nan, np.nan, np.nan, np.nan]),
            "r9": sums.reshape(-1),
        }
        self._pointer = {"rdi": WINDOW // 2 * LANES, "rsi": WINDOW // 2, "rdx": 0, "r8": 0, "r9": 0}
        self._zmm = np.full((32, LANES), np.nan)
        self.fetched: dict[str, list[int]] = {"r10": [], "r11": []}

    def run(self, code: bytes) -> None:
        """Carry out code up to its return, which must end it."""
        decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        decoder.detail = True
        decoded = list(decoder.disasm(code, 0))
        assert sum(each.size for each in decoded) == len(code)
        assert [each.mnemonic for each in decoded[-2:]] == ["vzeroupper", "ret"]
        for each in decoded[:-2]:
            getattr(self, each.mnemonic)(*each.operands)

    def _read(self, operand: names.X86Op, lanes: int = 1) -> Floats:
        if operand.type == names.X86_OP_REG:
            return self._zmm[operand.reg - names.X86_REG_ZMM0]
        memory, at = self._place(operand, lanes)
        return memory[at : at + lanes]

    def _place(self, operand: names.X86Op, lanes: int) -> tuple[Floats, int]:
        base = NAMES[operand.mem.base]
        at = self._pointer[base] + operand.mem.disp // 4
        assert operand.mem.disp % 4 == 0
        assert 0 <= at <= len(self._memory[base]) - lanes, f"[{base}] is left"
        return self._memory[base], at

    def _write(self, operand: names.X86Op, value: Floats) -> None:
        self._zmm[operand.reg - names.X86_REG_ZMM0] = value

    def vbroadcastss(self, to: names.X86Op, source: names.X86Op) -> None:
        self._write(to, self._read(source))

    def vmovups(self, to: names.X86Op, source: names.X86Op) -> None:
        if to.type == names.X86_OP_REG:
            self._write(to, self._read(source, LANES))
            return
        memory, at = self._place(to, LANES)
        memory[at : at + LANES] = self._read(source)

    def vfmadd231ps(self, to: names.X86Op, a: names.X86Op, b: names.X86Op) -> None:
        self._write(to, self._read(to) + self._read(a) * self._read(b))

    def vmaxps(self, to: names.X86Op, a: names.X86Op, b: names.X86Op) -> None:
        x, y = self._read(a), self._read(b)
        self._write(to, np.where(x > y, x, y))

    def vminps(self, to: names.X86Op, a: names.X86Op, b: names.X86Op) -> None:
        x, y = self._read(a), self._read(b)
        self._write(to, np.where(x < y, x, y))

    def mov(self, to: names.X86Op, source: names.X86Op) -> None:
        assert (NAMES[source.mem.base], source.mem.disp) == (
            "r8",
            {"r10": 8, "r11": 16}[NAMES[to.reg]],
        )

    def prefetcht0(self, line: names.X86Op) -> None:
        self.fetched[NAMES[line.mem.base]].append(line.mem.disp)

    def add(self, to: names.X86Op, amount: names.X86Op) -> None:
        name = NAMES[to.reg]
        self._pointer[name] += LANES if amount.type == names.X86_OP_REG else amount.imm // 4


NAMES = {
    names.X86_REG_RDI: "rdi",
    names.X86_REG_RSI: "rsi",
    names.X86_REG_RDX: "rdx",
    names.X86_REG_R8: "r8",
    names.X86_REG_R9: "r9",
    names.X86_REG_R10: "r10",
    names.X86_REG_R11: "r11",
}


def run_cells(
    made: OuterProduct, weight: Floats, bias: Floats, panel: Floats, bounds: tuple[float, float]
) -> Floats:
    """All rows of the weight, a cell at a time."""
    ends = [*made.entries[1:], len(made.code)]
    rows, columns = strip_bounds(len(weight)), chunk_bounds(np.count_nonzero(weight), *weight.shape)
    sums = [np.full((height, LANES), np.nan) for height in np.diff(rows)]
    assert len(ends) == len(sums) * made.chunks
    results = []
    for cell, (begin, end) in enumerate(zip(made.entries, ends, strict=True)):
        c, s = divmod(cell, len(sums))
        part = weight[rows[s] : rows[s + 1], columns[c] : columns[c + 1]].T
        biases = bias[rows[s] : rows[s + 1]] if c == 0 else []
        stream = np.concatenate([biases, part[part != 0]])
        assert len(stream) == made.streams[cell + 1] - made.streams[cell]
        machine = Machine(panel[columns[c] : columns[c + 1]], stream, sums[s], bounds)
        machine.run(made.code[begin:end].tobytes())
        lines = (np.count_nonzero(part) + EVERY // 2 - 1) // EVERY
        of_weights = lines // KINDS
        assert machine.fetched == {
            "r10": [64 * line for line in range(lines - of_weights)],
            "r11": [64 * line for line in range(of_weights)],
        }
        results.append(machine.results)
    return np.concatenate(results[-len(sums) :])


@settings(max_examples=25)
@given(
    st.integers(1, 70),
    st.integers(1, 900),
    st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    st.integers(0, 2**32 - 1),
)
def test_code_is_a_product(rows: int, depth: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth = depth if density < 1 else min(depth, 40)
    weight = rng.standard_normal((rows, depth)) * (rng.random((rows, depth)) < density)
    bias, panel = rng.standard_normal(rows), rng.standard_normal((depth, LANES))
    made = outer_product(np.flatnonzero(weight).astype(np.int32), rows, depth)
    got = run_cells(made, weight, bias, panel, (-1.0, 2.5))
    np.testing.assert_allclose(got, np.clip(weight @ panel + bias[:, None], -1, 2.5), atol=1e-9)


def test_a_nan_passes_the_bounds() -> None:
    weight, bias, panel = np.ones((1, 1)), np.zeros(1), np.full((1, LANES), np.nan)
    made = outer_product(np.zeros(1, np.int32), 1, 1)
    assert np.isnan(run_cells(made, weight, bias, panel, (0.0, 6.0))).all()


@pytest.mark.parametrize("rows", [1, ROWS, ROWS + 1, 512])
def test_strips_are_equally_tall(rows: int) -> None:
    heights = np.diff(strip_bounds(rows))
    assert heights.sum() == rows
    assert heights.max() <= ROWS
    assert heights.max() - heights.min() <= 1


@pytest.mark.parametrize(
    ("density", "depth", "chunks"), [(0.1, 768, 2), (0.1, 300, 1), (0.9, 768, 6), (0.0, 1024, 2)]
)
def test_chunks_are_equally_long(density: float, depth: int, chunks: int) -> None:
    lengths = np.diff(chunk_bounds(round(density * 64 * depth), 64, depth))
    assert (len(lengths), lengths.sum()) == (chunks, depth)
    assert lengths.max() - lengths.min() <= 1


def test_a_large_layer_is_quick_and_takes_nine_bytes_a_weight() -> None:
    rng = np.random.default_rng(0)
    index = np.flatnonzero(rng.random(1024 * 1024) < 0.2).astype(np.int32)
    start = time.perf_counter()
    made = outer_product(index, 1024, 1024)
    assert time.perf_counter() - start < 2
    assert 8 < len(made.code) / len(index) < 10


def test_equal_patterns_share_code_and_any_other_has_its_own() -> None:
    index = np.array([0, 5, 9], np.int32)
    pattern = Pattern(index, 4, 6)
    others = [Pattern(index, 6, 4), Pattern(index + 1, 4, 6), Pattern(index[:2], 4, 6)]
    assert len({each.key for each in (pattern, *others)}) == 4
    table = code_table([pattern, Pattern(index.copy(), 4, 6), *others])
    assert table.count == 4
    assert table.text == code_table([pattern, *others]).text
