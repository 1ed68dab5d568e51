"""Counts of instructions: of a program whose instructions are known, and of a log."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import arm, instructions
from sparsecc.backends.codegen.toolchain import run_zig

ROUNDS, BEFORE_LOOP, TO_CALL = 1000, 1, 5
PROGRAM = f"""
.globl _start
_start:
  bl mark
  mov x9, #{ROUNDS}
1:
  subs x9, x9, #1
  nop
  b.ne 1b
  bl mark
  mov x8, #93
  mov x0, #0
  svc #0
mark:
  mov x0, #{instructions.MARK}
  mov x1, #{instructions.MARK}
  mov x8, #141
  svc #0
  ret
"""


def test_a_known_program_is_counted_exactly(tmp_path: Path) -> None:
    qemu = instructions.emulator()
    if qemu is None:
        pytest.skip("qemu-aarch64 is not installed")
    (tmp_path / "a.s").write_text(PROGRAM)
    run_zig(["cc", "-target", "aarch64-linux-gnu", "-c", "a.s", "-o", "a.o"], tmp_path)
    run_zig(["ld.lld", "a.o", "-o", "a"], tmp_path)
    ret, call_mark = 1, 1 + 4  # what follows the first call's svc; bl and up to the second svc
    counts = instructions.count(qemu, [], [str(tmp_path / "a")])
    assert counts == [ret + BEFORE_LOOP + 3 * ROUNDS + call_mark]
    with pytest.raises(RuntimeError, match="code 1"):
        instructions.count(qemu, [], [str(tmp_path / "missing")])


def test_a_block_that_was_logged_but_did_not_run_is_taken_back() -> None:
    counter = instructions.Counter()
    mark = b"1 getpriority(0x5c,0x5c) = -1"
    block = [b"IN: f", b"0x00000010:  d503201f  nop", b"0x00000014:  d503201f  nop"]
    trace = b"Trace 0: 0x7f [00/0000000000000010/01/02] f"
    stopped = b"Stopped execution of TB chain before 0x7f [0000000000000010] f"
    counter.read([*block, trace, mark, trace, trace, stopped, mark])
    assert counter.counts == [2]
    with pytest.raises(ValueError, match="0x10 was translated"):
        counter.read([*block, trace.replace(b"10/", b"20/")])


def test_the_table_says_how_many_fewer() -> None:
    counts = [
        arm.Count(arm.BUNDLE, "dense", 300_000_000, 1e-6),
        arm.Count(arm.BUNDLE, "4x1:0.8", 100_000_000, 2e-6),
        arm.Count(arm.PEER, "dense", unavailable="no network"),
    ]
    table = arm.section(counts, "1.2.3")
    assert "| sparsecc's own library | 300 M | 100 M (3.00× fewer) |" in table
    assert "| ONNX Runtime 1.2.3, dense | – | – |" in table
    assert "onnxruntime: no network" in table
    assert "2.0e-06" in table
