"""The kernel table is whole, and what C reads of it is what Python says."""

from __future__ import annotations

import re

import pytest

from sparsecc import ops, targets
from sparsecc.backends.kernels.table import ANY, BLOCKS, ISAS, KERNELS, OPS, c_header, select


def test_every_op_block_and_isa_has_one_row() -> None:
    fixed = [row for row in KERNELS if not row.generated]
    keys = {(row.op, row.block, row.isa) for row in fixed}
    assert len(keys) == len(fixed) == len(OPS) * len(BLOCKS) * len(ISAS)
    assert len({row.name for row in KERNELS}) == len(KERNELS)


def test_every_target_has_its_instruction_sets() -> None:
    for target in targets.TARGETS.values():
        assert set(target.isas) <= set(ISAS)


@pytest.mark.parametrize(
    ("block", "kept"),
    [
        ((4, 1), (4, 1)),
        ((1, 8), (1, 8)),
        ((5, 1), (ANY, 1)),
        ((1, 3), (1, ANY)),
        ((3, 2), (ANY, ANY)),
    ],
)
def test_a_block_without_a_row_takes_a_general_one(
    block: tuple[int, int], kept: tuple[int, int]
) -> None:
    assert select("conv", block, "x86-64-v4").block == kept


def test_an_unknown_instruction_set_is_no_kernel() -> None:
    with pytest.raises(KeyError):
        select("conv", (4, 1), "mips")


def test_tiles_fit_the_registers() -> None:
    registers = {"x86-64-v3": 16, "x86-64-v4": 32, "arm64-neon": 32, "wasm-simd128": 16}
    registers["wasm-relaxed"] = 16
    for isa in ISAS.values():
        assert min(isa.tiles) == 1, "a block of any height must be coverable"
        for mr, nr in isa.tiles.items():
            inputs = 0 if mr == 1 else nr
            assert nr >= 2
            assert mr * nr + inputs + 1 <= registers[isa.name]


def test_header_numbers_the_activations_in_order() -> None:
    (names,) = re.findall(r"enum \{ (SC_NONE.*), SC_ACTIVATIONS \}", c_header())
    assert names.split(", ") == [f"SC_{a.name.upper()}" for a in ops.ACTIVATIONS]


def test_header_lists_every_variant() -> None:
    listed = re.findall(r'X\("(\w+)", ([01]), ([01]), SC_(\w+)\)', c_header())
    assert [name for name, *_ in listed] == list(ops.VARIANTS)
    for name, conv, residual, activation in listed:
        what = ops.parse(name)
        assert (conv == "1") == (what.base == "SparseConv")
        assert (residual == "1") == what.residual
        assert activation.lower() == what.activation


def test_header_is_deterministic() -> None:
    assert c_header() == c_header()
