"""Recovery of layers that are factors: they learn, their zeros and shapes stay."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

import sparsecc
from sparsecc.formats.patterns import Pattern
from sparsecc.passes.structured.rewrite import marks
from sparsecc.passes.weights.prune import prune_model
from sparsecc.quality.calibration import Calibration, load_calibration
from sparsecc.quality.effort import Effort
from sparsecc.search.plan import Choice
from sparsecc.torch.interpreter import Interpreter
from sparsecc.torch.recovery.recover import recover
from sparsecc.torch.recovery.trained import trained_names
from tests import small
from tests.sparsecc.torch.recovery.cases import canonical, inputs

STRUCTURES = {
    "rank:16": "dense",
    "rank:8": "4x1",
    "monarch:4x4:8": "dense",
    "kronecker:16x16:4": "dense",
}
"""Factors of the first layer of the MLP → zeros beside them."""
STEPS = Effort(steps=40)


def choice(structure: str, method: str = "sparsegpt") -> Choice:
    pattern = Pattern.parse(STRUCTURES[structure])
    sparsity = 0.0 if STRUCTURES[structure] == "dense" else 0.8
    return Choice(pattern=pattern, sparsity=sparsity, method=method, structure=structure)


def factored(structure: str) -> tuple[ir.Model, ir.Model, Calibration]:
    """The dense MLP, the same with factors in the place of its first layer, and data."""
    dense = canonical(small.mlp("n"))
    data = load_calibration({"x": inputs(320)}, dense)
    made = dense.clone()
    prune_model(made, {"fc1": choice(structure)}, data)
    return dense, made, data


def factors(model: ir.Model) -> list[ir.Value]:
    """The constants of the products that stand for a layer, a sparse part among them."""
    parts = marks(model.graph)
    products = [n for n in model.graph if n.name in parts and n.op_type == "MatMul"]
    return [value for node in products for value in node.inputs if value.is_initializer()]


def some_zeros(model: ir.Model) -> None:
    """Every fourth number of every factor of a layer is zero."""
    for value in factors(model):
        array = value.const_value.numpy().copy()
        array.reshape(-1)[::4] = 0
        value.const_value = ir.tensor(array, name=value.name)


def constants(model: ir.Model) -> dict[str, NDArray[np.floating]]:
    """What is trained, by name."""
    return {
        name: model.graph.initializers[name].const_value.numpy() for name in trained_names(model)
    }


@pytest.mark.parametrize("structure", STRUCTURES)
def test_factors_learn_and_keep_their_zeros_and_shapes(structure: str) -> None:
    dense, made, data = factored(structure)
    some_zeros(made)
    before, nodes = constants(made), [node.op_type for node in made.graph]
    of_layer = [value.name for value in factors(made)]
    assert len(of_layer) == (3 if STRUCTURES[structure] == "4x1" else 2)
    done = recover(dense, made, data, STEPS)
    assert done.after < 0.9 * done.before
    after = constants(made)
    assert [node.op_type for node in made.graph] == nodes
    for name in of_layer:
        assert after[name].shape == before[name].shape
        assert (after[name] != before[name]).any()
        zeros = before[name] == 0
        assert zeros.mean() >= 0.25
        np.testing.assert_array_equal(after[name] == 0, zeros)


class UnpluggedError(Exception):
    """Stands for a user who pulls the plug."""


def unplug(what: str, share: float) -> None:
    if share > 0.6:
        raise UnpluggedError


@pytest.mark.parametrize("structure", STRUCTURES)
def test_factors_go_on_to_the_same_bits(structure: str, tmp_path) -> None:
    effort, path = Effort(steps=10), tmp_path / "state.safetensors"
    dense, whole, data = factored(structure)
    recover(dense, whole, data, effort)
    dense, broken, data = factored(structure)
    with pytest.raises(UnpluggedError):
        recover(dense, broken, data, effort, checkpoint=path, progress=unplug)
    recover(dense, broken, data, effort, checkpoint=path)
    for name, array in constants(whole).items():
        np.testing.assert_array_equal(constants(broken)[name], array)


def test_biases_that_are_zero_learn() -> None:
    """A zero of a weight says what is multiplied, one of a bias is a value as others are."""
    proto = small.mlp("n")
    dense = canonical(proto)
    made = dense.clone()
    bias = next(v for name, v in made.graph.initializers.items() if "bias" in name)
    bias.const_value = ir.tensor(np.zeros_like(bias.const_value.numpy()), name=bias.name)
    recover(dense, made, load_calibration({"x": inputs(320)}, dense), Effort(steps=10))
    assert (bias.const_value.numpy() != 0).all()


@pytest.fixture(scope="module")
def plan() -> sparsecc.Plan:
    return sparsecc.compile(small.mlp("n"), "x86-64-v4").plan


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_recovered_artifact_computes_what_the_interpreter_does(
    plan: sparsecc.Plan, structure: str
) -> None:
    raw = json.loads(plan.to_json())
    raw["layers"][0]["choice"] = choice(structure).model_dump(mode="json")
    raw["recovery"] = {"steps": 5, "best": 0, "before": 1.0, "after": 1.0}
    asked = sparsecc.Plan.from_json(json.dumps(raw))
    made = sparsecc.apply(small.mlp("n"), asked, calibration={"x": inputs(320)})
    assert made.plan.recovery is not None
    assert made.plan.recovery.after < made.plan.recovery.before
    assert next(row.structure for row in made.report.rows) == structure
    x = inputs(16, seed=7)
    with torch.no_grad():
        model = Interpreter(ir.load(made.path / "model.onnx"))
        wanted = model({"x": torch.from_numpy(x)})["y"].numpy()
    np.testing.assert_allclose(made(x), wanted, atol=1e-5 * np.abs(wanted).max())
