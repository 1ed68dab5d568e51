from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import kernels
from benchmarks.kernels import KernelRow
from sparsecc.backends.kernels import peak

ROW = KernelRow("1×1", "4x1:0.8", "conv-4x1", 0.5, 2.0, 40_000_000, 1_000_000, 100.0)


def test_every_layer_of_the_file_has_a_title_of_its_own():
    text = kernels.LAYERS.read_text()
    models = kernels.parse(text)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(models) == len(lines)
    assert "3×3, 64 → 64 @ 56²" in models
    assert "128 tokens, 768 → 3072" in models
    assert "1 token, 1024 → 1000" in models


def test_a_stride_is_part_of_the_title():
    (title,) = kernels.parse("1x8x8x8 conv 16 k=3 s=2  # comment")
    assert title == "3×3, stride 2, 8 → 16 @ 8²"


def test_figures_follow_from_time_and_peak():
    assert ROW.gflops == pytest.approx(80)
    assert ROW.share == pytest.approx(0.8)


def test_the_table_gives_speed_up_and_share():
    rows = [
        ROW,
        replace(ROW, pattern="4x1:0.9", kernel="onnxruntime"),
        replace(ROW, layer="3×3", unavailable="no"),
    ]
    text = kernels.section(rows, 100.0, "Zen")
    assert "| layer | 4x1:0.8 | 4x1:0.9 |" in text
    assert "| 1×1 | 4.0× 80% | dense |" in text
    assert "| 3×3 | – | – |" in text
    assert "- 3×3, 4x1:0.8: no" in text


def test_the_plot_shows_sparse_kernels_only():
    rows = [ROW, replace(ROW, kernel="onnxruntime"), replace(ROW, unavailable="no")]
    assert kernels.points(rows) == {"4x1:0.8": [(40.0, pytest.approx(80))]}


def test_a_layer_is_measured_against_the_peak(tmp_path):
    ((name, model),) = kernels.parse("1x64x14x14 conv 64").items()
    row = kernels.measure_layer(name, model, "4x1:0.75", 1e4, 0.05, tmp_path)
    assert row.unavailable == ""
    assert row.flops == pytest.approx(2 * 64 * 64 * 0.25 * 196, rel=0.05)
    assert row.bytes == pytest.approx(4 * (2 * 64 * 196 + 1024), rel=0.05)
    assert 0 < row.gflops < 1e4


def test_the_probe_finds_roofs_in_order(monkeypatch):
    monkeypatch.setattr(peak, "TURNS", 3)
    narrow, wide = (peak.Probe(isa) for isa in (peak.isas_here()[0], peak.isas_here()[-1]))
    assert wide.gflops() > 5
    assert wide.gflops() > 0.7 * narrow.gflops()
    assert wide.gbs(64 << 10) > 0.7 * wide.gbs(128 << 20) > 0.5


def test_the_probe_reads_every_byte_and_adds_every_product():
    probe = peak.Probe(peak.isas_here()[-1])
    array = np.arange(1024, dtype=np.float32)
    assert probe._library.sc_stream(array.ctypes.data, 1024, 2) == 2 * array.sum()
    lanes = peak.isas_here()[-1].vector_bytes // 4
    chains = probe._library.sc_peak_flops() // (2 * lanes)
    start = 1 + np.arange(chains)
    assert probe._library.sc_peak(1, 0.5, 1.0) == lanes * (start * 0.5 + 1).sum()
