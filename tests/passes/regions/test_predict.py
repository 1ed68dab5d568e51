"""The time of a whole model: its layers and what stands between them."""

from __future__ import annotations

import dataclasses

import onnx
import onnx_ir as ir
import pytest

from benchmarks import build, spec
from sparsecc import ops
from sparsecc.capture import capture
from sparsecc.cost.model import cost_model, total
from sparsecc.cost.roofline import Work
from sparsecc.inspection import fixed, rewrite
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions.predict import context, predict_model, rest
from sparsecc.targets import TARGETS

V4 = TARGETS["x86-64-v4"]
IMAGES = """
input image 1x16x32x32
conv one 32 act=relu
conv two dw k=3 act=relu
conv three 32
add four from=three,two
"""
WIDE = """
input image 1x256x16x16
conv one 256 act=relu
conv two dw k=3 act=relu
conv three 256
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


def test_context_counts_large_values_and_machine_code(tmp_path) -> None:
    graph, _ = graph_of(IMAGES, tmp_path)
    small = context(graph, V4)
    assert small.calls > 0
    assert small.elements == small.macs == 0  # 32 x 32 x 32 numbers lie in half of the cache
    tiny = dataclasses.replace(V4, caches=(1 << 10, 1 << 12, 1 << 20))
    large = context(graph, tiny)
    assert large.elements >= 3 * 32**3
    assert large.macs == 0
    path = build.write("coded", "unstructured:0.9", tmp_path, spec.parse(WIDE))
    coded, ctx = capture(onnx.load(path)), Context(target=V4)
    run(pipeline.EXACT_BEFORE, coded, ctx)
    rewrite(coded, V4, ctx)
    kept = sum(len(ops.read_packed(node).index) for node in coded.graph if ops.is_sparse(node))
    assert 0 < context(coded, V4).macs < kept  # depthwise weights are none


def test_what_is_fixed_is_all_but_the_prunable_layers(tmp_path) -> None:
    path = build.write("dense", "dense", tmp_path, spec.parse(IMAGES))
    graph, ctx = capture(onnx.load(path)), Context(target=V4)
    run(pipeline.EXACT_BEFORE, graph, ctx)
    before = ir.to_proto(graph).SerializeToString()
    found = fixed(graph, V4)
    assert ir.to_proto(graph).SerializeToString() == before
    depthwise = cost_model(V4).sparse(
        Work(32, 9, 1024, 32, 32 * 1024, True), (1, 1), 288, beside=True
    )
    assert depthwise.ms < found.ms < 10 * depthwise.ms
    assert 0 < found.spread < 1


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
