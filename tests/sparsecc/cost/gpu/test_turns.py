"""Instructions of turns: there for every kernel that has a price, and those of the machine code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from sparsecc.backends.cuda.build import build
from sparsecc.backends.cuda.load import load_pinned
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.cost.gpu.turns import ARCHS, TURNS, turn

OF_TURNS = {"dense", "columns", "bitmap", "two_of_four", "groups", "code_tiles"}
"""Modules whose kernels all are products with weights."""
_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)\s*([^;]*);")
_TO = re.compile(r"0x([0-9a-f]+)")


def test_every_kernel_with_a_price_has_a_row_and_every_row_a_kernel() -> None:
    products = [kernel for kernel in KERNELS.values() if kernel.module in OF_TURNS]
    assert products
    for kernel in products:
        assert all(turn(kernel, arch) > 0 for arch in kernel.launches), kernel.name
    names = {name.replace("-fp16", "") for name in KERNELS}
    assert set(TURNS) <= names


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", ["columns-fp16-m64-few", "dense-fp16-t128", "codes-fp16-g32-t1"])
def test_a_turn_is_what_the_machine_code_says(name: str, arch: str, tmp_path: Path) -> None:
    """A kernel that changes by a quarter has to be counted again."""
    pytest.importorskip("triton")
    kernel = KERNELS[name]
    assert longest_loop(build(kernel, arch).code, tmp_path) == pytest.approx(
        turn(kernel, arch), rel=0.25
    )


def longest_loop(code: bytes, folder: Path) -> int:
    """Instructions between a jump back and where it leads, the most of them."""
    file = folder / "kernel.cubin"
    file.write_bytes(code)
    tool = load_pinned().knobs.nvidia.cuobjdump.path
    said = subprocess.run([tool, "-sass", file], capture_output=True, text=True, check=True)
    found = [(int(at, 16), what, to) for at, what, to in _LINE.findall(said.stdout)]
    loops = [
        sum(int(to[1], 16) <= each <= at for each, *_ in found)
        for at, what, operands in found
        if what.startswith("BRA") and (to := _TO.search(operands)) and int(to[1], 16) < at
    ]
    return max(loops)
