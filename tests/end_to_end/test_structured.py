"""Layers that are a transform, a convolution or of low rank: found, rewritten, told, repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import scipy.linalg
from onnx import TensorProto, helper, numpy_helper

import sparsecc
from sparsecc.errors import PlanError
from sparsecc.inspection import inspect
from tests.passes.structured.weights import fourier

TARGET = "x86-64-v4"
SIDE, TOKENS, LEAST = 1024, 64, 1e-5
FOUND = {"front": "dft", "echo": "hankel", "thin": "rank", "head": ""}


def a_model(seed: int = 0) -> onnx.ModelProto:
    """A spectrogram's transform, a Hankel layer, one of low rank with a bias, and a dense one."""
    rng = np.random.default_rng(seed)
    transform = fourier(SIDE, SIDE) * np.hanning(SIDE)
    arrays = {
        "front": np.concatenate([transform.real, transform.imag]).T,
        "echo": scipy.linalg.hankel(*rng.normal(size=(2, 2 * SIDE))) / SIDE,
        "thin": rng.normal(size=(2 * SIDE, 24)) @ rng.normal(size=(24, SIDE)) / SIDE,
        "bias": rng.normal(size=SIDE),
        "head": rng.normal(size=(SIDE, SIDE)) / SIDE**0.5,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "front"], ["a"], name="front"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "echo"], ["c"], name="echo"),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "thin"], ["e"], name="thin"),
        helper.make_node("Add", ["e", "bias"], ["f"]),
        helper.make_node("Relu", ["f"], ["g"]),
        helper.make_node("MatMul", ["g", "head"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", TOKENS, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", TOKENS, SIDE])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def inputs(count: int, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(count, TOKENS, SIDE)).astype(np.float32)}


@pytest.fixture(scope="module")
def compiled() -> sparsecc.Compiled:
    return sparsecc.compile(a_model(), TARGET, verify=True)


def test_structures_are_found_and_rewritten(compiled: sparsecc.Compiled, tmp_path: Path) -> None:
    rows = {row.name: row for row in compiled.report.rows}
    assert {name: row.structure.partition(":")[0] for name, row in rows.items()} == FOUND
    assert rows["front"].kernel == "dft"
    assert all(rows[name].est_ms < rows[name].dense_ms for name in ("front", "echo", "thin"))
    assert "3 as smaller factors" in str(compiled.report)
    assert compiled.manifest.files["model.onnx"].bytes < 0.5 * len(a_model().SerializeToString())
    x = inputs(2)
    expected = onnxruntime.InferenceSession(a_model().SerializeToString()).run(None, x)[0]
    got = compiled(**x)
    np.testing.assert_allclose(got, expected, atol=LEAST * np.abs(expected).max())
    page = compiled.report.save(tmp_path / "report.html").read_text()
    assert "3 as smaller factors" in page


def test_exact_structures_alone_leave_nothing_to_recover() -> None:
    made = sparsecc.compile(a_model(), TARGET, calibration=inputs(4), recover="1000000 steps")
    assert {row.name: row.structure.partition(":")[0] for row in made.report.rows} == FOUND
    assert made.plan.recovery is None
    assert "nothing to recover: the outputs are the dense model's" in str(made.report)


def test_inspect_shows_them() -> None:
    rows = {row.name: row for row in inspect(a_model(), TARGET)}
    assert {name: row.structure.partition(":")[0] for name, row in rows.items()} == FOUND


def test_a_plan_repeats_them(compiled: sparsecc.Compiled, tmp_path: Path) -> None:
    compiled.plan.save(tmp_path / "plan.json")
    plan = sparsecc.Plan.load(tmp_path / "plan.json")
    again = sparsecc.apply(a_model(), plan)
    files = [made.manifest.files["model.onnx"].sha256 for made in (compiled, again)]
    assert files[0] == files[1]


def test_another_checkpoint_without_the_structure_stays_dense(compiled: sparsecc.Compiled) -> None:
    other = a_model()
    noisy = next(each for each in other.graph.initializer if each.name == "thin")
    array = numpy_helper.to_array(noisy) * np.linspace(1, 2, SIDE, dtype=np.float32)
    array = array + np.random.default_rng(5).normal(size=array.shape).astype(np.float32) / 100
    noisy.CopyFrom(numpy_helper.from_array(array, "thin"))
    rows = {row.name: row for row in sparsecc.apply(other, compiled.plan).plan.layers}
    assert "more than rounding" in rows["thin"].reason
    assert rows["thin"].density == 1
    assert rows["front"].density < 1


def test_whoever_asks_for_zeros_gets_zeros() -> None:
    made = sparsecc.compile(a_model(), TARGET, sparsity="4x1:0.9", overrides={"thin": "dense"})
    rows = {row.name: row for row in made.report.rows}
    assert rows["echo"].pattern == "4x1"
    assert not any(rows[name].structure for name in ("front", "echo", "thin"))


@pytest.mark.parametrize(
    ("structure", "zeros"), [("rank:64", None), ("monarch:4x4:16", None), ("rank:32", "4x1")]
)
def test_an_edited_plan_factors_a_layer(
    compiled: sparsecc.Compiled, structure: str, zeros: str | None
) -> None:
    """Approximate factors, as a search chooses them: fitted to data, their loss measured."""
    raw = json.loads(compiled.plan.to_json())
    head = next(layer for layer in raw["layers"] if layer["name"] == "head")
    choice = {"pattern": zeros or "dense", "sparsity": 0.8 if zeros else 0.0}
    head["choice"] = choice | {"method": "sparsegpt", "refit": True, "structure": structure}
    plan = sparsecc.Plan.from_json(json.dumps(raw))
    data = inputs(20)
    made = sparsecc.apply(a_model(), plan, calibration=data)
    layer = next(layer for layer in made.plan.layers if layer.name == "head")
    assert 0 < (layer.loss or 0) < 1
    assert layer.density < 0.5
    row = next(row for row in made.report.rows if row.name == "head")
    assert row.structure == structure
    assert made.manifest.numerics["max_rel_error"] < LEAST
    assert ("4x1" in row.kernel) == bool(zeros)


def test_a_structure_that_does_not_fit_is_refused(compiled: sparsecc.Compiled) -> None:
    layers = [
        layer.model_copy(
            update={"choice": layer.choice.model_copy(update={"structure": "kronecker:3x3:1"})}
        )
        for layer in compiled.plan.layers
    ]
    with pytest.raises(PlanError, match="3 x 3 does not divide"):
        sparsecc.apply(a_model(), compiled.plan.model_copy(update={"layers": tuple(layers)}))


def test_a_search_offers_factors_and_keeps_the_exact_ones() -> None:
    plan = sparsecc.plan(a_model(), TARGET, calibration=inputs(8), max_drop=0.02, score="magnitude")
    layers = {layer.name: layer for layer in plan.layers}
    for name, form in FOUND.items():
        as_it_is = [each for each in layers[name].options if not each.choice.changes]
        assert [each.choice.structure.partition(":")[0] for each in as_it_is] == [form]
    for layer in layers.values():
        zeros = [each for each in layer.options if not each.choice.structure]
        for each in layer.options:
            if each.choice.structure and each.choice.changes:
                assert not any(
                    other.predicted_ms <= each.predicted_ms and other.loss <= each.loss
                    for other in zeros
                )
