"""Cuts: what is behind one needs nothing before it, and real models have them between blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsecc.passes.weights.layers import find_layers
from sparsecc.torch.interpreter import Interpreter
from sparsecc.torch.recovery.cuts import MOST_CUTS, find_cuts
from tests import small
from tests.sparsecc.torch.recovery.cases import canonical, inputs

MODELS = {
    "mlp": (lambda: small.mlp("n"), {"x": inputs(4)}),
    "mobilenet": (small.mobilenet, {"image": small.image(0)}),
}


@pytest.mark.parametrize("name", MODELS)
def test_behind_a_cut_the_values_that_pass_it_are_enough(name: str) -> None:
    make, feed = MODELS[name]
    model = canonical(make())
    network = Interpreter(model)
    given = {key: torch.from_numpy(array) for key, array in feed.items()}
    with torch.no_grad():
        whole = network(given)
        for cut in find_cuts(model):
            passed = network(given, cut.values)
            wrong = {key: each * 2 for key, each in given.items()}
            rest = network({**wrong, **passed})  # the input itself plays no part any more
            for key, wanted in whole.items():
                np.testing.assert_array_equal(rest[key].numpy(), wanted.numpy())


def test_a_chain_is_cut_between_all_its_layers() -> None:
    model = canonical(small.mlp("n"))
    cuts = find_cuts(model)
    assert [cut.values for cut in cuts] == [("b",), ("d",)]  # behind the activations


def test_there_are_no_more_than_enough() -> None:
    model = canonical(small.mobilenet())
    assert len(find_layers(model).layers) < MOST_CUTS
    assert 5 < len(find_cuts(model)) <= MOST_CUTS


def test_a_residual_is_cut_around_not_through() -> None:
    from onnx import helper

    rng = np.random.default_rng(0)
    names = ("a", "b", "c")
    matrices = {n: rng.standard_normal((32, 32)).astype(np.float32) for n in names}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"], "first"),
        helper.make_node("MatMul", ["p", "b"], ["q"], "second"),
        helper.make_node("Add", ["p", "q"], ["r"], "sum"),
        helper.make_node("MatMul", ["r", "c"], ["y"], "last"),
    ]
    model = canonical(small.model(nodes, {"x": ["n", 32]}, {"y": ["n", 32]}, matrices))
    assert [cut.values for cut in find_cuts(model)] == [("p",), ("r",)]
