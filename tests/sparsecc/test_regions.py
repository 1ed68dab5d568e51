"""Regions of a compiled model: right in every batch, with the library and without, and reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import sparsecc
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.inspection import inspect
from sparsecc.manifest import RegionEntry
from sparsecc.report import Report
from sparsecc.verify import verify
from tests import small

TOLERANCE = 1e-4


INSIDE = ["fc1", "fc2", "head"]


@pytest.fixture(scope="module")
def compiled() -> sparsecc.Compiled:
    """One artifact for any number of rows; its last node is none of the library's."""
    model = small.mlp("n")
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(onnx.helper.make_node("Softplus", ["z"], ["y"], "last"))
    return sparsecc.compile(model, sparsity="4x1:0.8", verify=True)


@pytest.mark.parametrize("rows", [1, 2, 3, 70])
def test_one_artifact_serves_every_batch(compiled: sparsecc.Compiled, stock, rows: int) -> None:
    x = small.tokens(rows, rows)
    body = stock(compiled.path / "model.onnx", x=x)  # without the library
    np.testing.assert_allclose(compiled(x), body, rtol=0, atol=TOLERANCE * np.abs(body).max())


@pytest.mark.parametrize("pattern", ["4x1:0.8", "unstructured:0.9"])
def test_every_run_gives_the_same_bytes_on_one_thread_and_two(pattern: str) -> None:
    """Work is shared in another way once a second thread was seen, or was not."""
    model = sparsecc.compile(small.mobilenet(pattern), sparsity="existing")
    (library,) = model.path.glob("*.so")
    feeds = {"image": small.image(0)}
    answers = set()
    for threads in (1, 2):
        session = open_session(model.path / "model.onnx", library=library, threads=threads)
        answers |= {session.run(None, feeds)[0].tobytes() for _ in range(8)}
    assert len(answers) == 1


def test_the_manifest_says_what_is_in_a_region_and_what_is_not(compiled: sparsecc.Compiled) -> None:
    (region,) = compiled.manifest.regions
    assert region == RegionEntry(op_type="Region0", steps=3, nodes=tuple(INSIDE))
    outside = {each.node: each.reason for each in compiled.manifest.refusals}
    assert outside["last"] == "the kernel library has no Softplus"
    model = onnx.load(compiled.path / "model.onnx")
    assert [node.op_type for node in model.graph.node] == ["Region0", "Softplus"]


def test_the_report_says_it_in_a_line(compiled: sparsecc.Compiled) -> None:
    text = " ".join(str(compiled.report).split())
    assert "3 of 4 nodes in 1 region; outside: 1× the kernel library has no Softplus" in text
    assert text.count("the kernel library has no Softplus") == 1
    data = compiled.report.to_json()
    assert data["regions"] == [INSIDE]
    assert data["outside_regions"] == {"the kernel library has no Softplus": 1}


def test_a_saved_artifact_is_inspected_and_verified(
    compiled: sparsecc.Compiled, tmp_path: Path
) -> None:
    folder = compiled.save(tmp_path / "artifact")
    assert verify(folder)["ok"]
    assert [row.is_sparse for row in inspect(folder)] == [True, True, False]
    assert Report.from_manifest(compiled.manifest).regions == [INSIDE]


def test_a_model_without_sparse_layers_has_no_region() -> None:
    dense = sparsecc.compile(small.mlp())
    assert dense.manifest.regions == []
    assert dense.manifest.library is None
    assert "region" not in str(dense.report)
