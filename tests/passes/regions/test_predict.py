"""The time of a whole model: its layers and what stands between them."""

from __future__ import annotations

import dataclasses

import onnx
import pytest

from benchmarks import build, spec
from sparsecc.capture import capture
from sparsecc.cost.model import total
from sparsecc.inspection import rewrite
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions.predict import predict_model, rest
from sparsecc.targets import TARGETS

V4 = TARGETS["x86-64-v4"]
IMAGES = """
input image 1x16x32x32
conv one 32 act=relu
conv two dw k=3 act=relu
conv three 32
add four from=three,two
"""
TOKENS = """
input tokens 1x64x64
linear q 64
linear k 64 from=tokens
linear v 64 from=tokens
attention a 4 from=q,k,v
linear out 64
norm n
"""


def graph_of(text: str, folder) -> tuple:
    path = build.write("model", "4x1:0.8", folder, spec.parse(text))
    graph, ctx = capture(onnx.load(path)), Context(target=V4)
    run(pipeline.EXACT_BEFORE, graph, ctx)
    return graph, rewrite(graph, V4, ctx)


@pytest.mark.parametrize("text", [IMAGES, TOKENS])
def test_a_model_is_its_layers_and_the_rest(text: str, tmp_path) -> None:
    graph, rows = graph_of(text, tmp_path)
    found, between = predict_model(graph, rows, V4), rest(graph, V4)
    assert found.ms == pytest.approx(between.ms + sum(row.est_ms for row in rows))
    assert 0 < between.ms < found.ms
    assert 0 < found.spread < 1
    twice = [dataclasses.replace(row, est_ms=2 * row.est_ms) for row in rows]
    more = predict_model(graph, twice, V4)
    assert more.ms == pytest.approx(2 * found.ms - between.ms)


def test_attention_counts_with_the_rest(tmp_path) -> None:
    with_it, rows = graph_of(TOKENS, tmp_path / "with")
    plain = TOKENS.replace("attention a 4 from=q,k,v", "add a from=q,v")
    without, _ = graph_of(plain, tmp_path / "without")
    assert rest(with_it, V4).ms > 1.2 * rest(without, V4).ms
    assert total([]).ms == 0
    assert all(row.spread > 0 for row in rows)


def test_a_layer_without_zeros_in_the_library_is_estimated_there(tmp_path) -> None:
    _, rows = graph_of(IMAGES, tmp_path)
    row = next(row for row in rows if row.kernel == "conv-depthwise")
    assert row.est_ms != row.dense_ms
    assert 0 < row.est_ms < 1
