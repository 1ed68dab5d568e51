"""Layers timed in Node: what is run is the layer, and the table says what was measured."""

from __future__ import annotations

import shutil

import pytest

from benchmarks import kernels
from benchmarks import wasm_kernels as bench
from sparsecc.backends.kernels.measured import step_of
from sparsecc.targets import TARGETS

LAYERS = kernels.parse("1x8x12x12 conv 16 k=3\n1x40x24 linear 32\n1x24 linear 20")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def test_a_shape_is_the_layer_with_so_many_zeros() -> None:
    conv, tokens, token = (bench.shape_of(model, 0.5) for model in LAYERS.values())
    assert (conv.call.work.macs, conv.kernel, conv.side) == (16 * 8 * 9 * 144, 3, 12)
    assert conv.call.blocks == 4 * 72 / 2
    assert (tokens.call.work.macs, tokens.call.blocks) == (32 * 24 * 40, 8 * 24 / 2)
    assert token.call.work.points == 1
    assert step_of(token, TARGETS["wasm"], 0).kind == "matmul"


@needs_node
@pytest.mark.parametrize("isa", bench.VARIANTS)
def test_layers_are_timed(isa: str) -> None:
    conv, tokens, _ = (bench.shape_of(model, 0.5) for model in LAYERS.values())
    peak = bench.peak_gflops(isa)
    for shape in (conv, tokens):
        ms = bench.ours_ms(shape, isa)
        assert 0 < 2 * shape.call.blocks * 4 * shape.call.work.points / ms / 1e6 < 1.1 * peak


def test_the_table_has_a_line_for_each_layer() -> None:
    found = [
        bench.Row("a layer", 0.8, "wasm-simd128", 2.0, 8.0, 10**8),
        bench.Row("a layer", 0.8, "wasm-relaxed", 1.0, 8.0, 10**8),
    ]
    text = bench.section(found, {"wasm-simd128": 100.0, "wasm-relaxed": 200.0}, "A chip")
    assert "| a layer | – | – | 4.0× 50% | – | – | – | 8.0× 50% | – |" in text
    assert "100 (wasm) and 200 (relaxed) GFLOP/s" in text
