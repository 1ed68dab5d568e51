"""Mixtures of experts on WebAssembly and on ARM: all engines compute the same, and the tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import arm_moe, moe
from benchmarks import wasm_moe as wasm

NODE = Path(__file__).parents[2] / "node_modules" / "onnxruntime-web"
needs_web = pytest.mark.skipif(
    shutil.which("node") is None or not NODE.is_dir(), reason="it needs node and `npm ci`"
)


@needs_web
def test_every_form_runs_and_is_timed(tmp_path: Path) -> None:
    row = wasm.measure(moe.weights_of(4, 32, 48), 9, tmp_path, 0.05)
    assert row.ratios.keys() == wasm.FORMS.keys()
    assert not row.unavailable
    assert 0 < row.error < 1e-5
    assert row.ms > 0


def test_the_table_of_webassembly_says_what_does_not_run() -> None:
    row = wasm.Row(16, "relaxed", 2.0, {wasm.DENSE: (4.0, 3.9, 4.2)}, {wasm.LOOP: "no"}, 1e-6)
    text = wasm.section([row], 8, "512 → 2048", "A chip")
    assert "| 16 | 2.00 | 4.00 (3.90–4.20) | – | – |" in text
    assert "- loop over experts does not run: no" in text
    assert "A chip, Node, one thread (relaxed SIMD): 8 experts" in text


def test_the_table_of_arm_has_ratios() -> None:
    peer = dict.fromkeys(arm_moe.FORMS, 5_000_000)
    text = arm_moe.section([arm_moe.Row(16, 2_000_000, peer)], 8, "256 → 1024", "1.2")
    assert "| 16 | 2.0 M | 5.0 M (2.50×) | 5.0 M (2.50×) |" in text
