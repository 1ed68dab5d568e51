"""inspect(): every layer, what would run it, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import sparsecc
from sparsecc.errors import ArtifactError, SparseccError
from sparsecc.inspection import inspect
from tests import small
from tests.end_to_end import zoo


def test_rows_of_a_model_come_in_its_order_and_say_why() -> None:
    proto = small.mobilenet("4x1:0.8")
    rows = inspect(proto, "x86-64-v4")
    convs = [node.name for node in proto.graph.node if node.op_type in ("Conv", "Gemm")]
    assert [row.name for row in rows] == convs
    by_name = {row.name: row for row in rows}
    pointwise, depthwise = by_name["block7.pointwise"], by_name["block7.depthwise"]
    assert (pointwise.op, pointwise.pattern, pointwise.eligible) == ("Conv", "4x1", True)
    assert pointwise.density == pytest.approx(0.2, abs=0.02)
    assert pointwise.est_ms < pointwise.dense_ms
    assert (depthwise.kernel, depthwise.shape) == ("conv-depthwise", None)
    assert "no change of layout" in depthwise.why
    assert by_name["stem"].kernel == "conv-dense"
    assert "no change of layout" in by_name["stem"].why
    assert all(row.why and row.kernel and row.macs > 0 for row in rows)


def test_multiply_adds_are_those_of_the_shapes() -> None:
    rows = {row.name: row for row in inspect(small.mobilenet())}
    stem = next(n for n in small.mobilenet().graph.node if n.name == "stem")
    weight = next(t for t in small.mobilenet().graph.initializer if t.name == stem.input[1])
    assert rows["stem"].macs == int(np.prod(weight.dims)) * 32 * 32
    channels = next(n for n in small.mobilenet().graph.node if n.name == "block1.depthwise")
    taps = next(t for t in small.mobilenet().graph.initializer if t.name == channels.input[1])
    assert rows["block1.depthwise"].macs == int(np.prod(taps.dims)) * 32 * 32


def test_an_artifact_is_read_from_its_manifest(saved_mlp: Path, pruned_mlp) -> None:
    rows = inspect(saved_mlp)
    assert [row.to_json() for row in rows] == [
        {**row, "shape": row["shape"] and tuple(row["shape"])} for row in pruned_mlp.manifest.layers
    ]
    assert inspect(str(saved_mlp)) == rows


def test_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(small.mlp(), path)
    before = path.read_bytes()
    assert len(inspect(path)) == 3
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == {path: before}


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [("recurrent", "lstm", "recurrent"), ("control_flow", "body", "inside the body of Loop")],
)
def test_what_cannot_be_pruned_is_listed(
    name: str, layer: str, reason: str, tmp_path: Path
) -> None:
    rows = {row.name: row for row in inspect(zoo.ZOO[name](tmp_path).model)}
    assert not rows[layer].eligible
    assert reason in rows[layer].why
    assert rows[layer].kernel == "onnxruntime"


def test_without_layers_there_are_no_rows() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "act")]
    assert inspect(small.model(nodes, {"x": [2]}, {"y": [2]}, {})) == []


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a sparsecc artifact"):
        inspect(tmp_path)
    for wrong in (tmp_path / "none.onnx", 3, b"bytes"):
        with pytest.raises(sparsecc.ModelError):
            inspect(wrong)
    with pytest.raises(SparseccError, match="unknown target"):
        inspect(small.mlp(), "abacus")
