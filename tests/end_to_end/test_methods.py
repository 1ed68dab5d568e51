"""What methods are for, on networks trained for it: each step of them loses less than the last."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from examples.digits_cnn.compare import (
    METHODS,
    SEEDS,
    SPARSITIES,
    TRAIN,
    digits,
    output_error,
    train,
)
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.formats.patterns import SparsitySpec
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights.layers import find_layers
from sparsecc.passes.weights.prune import prune_model
from sparsecc.quality.calibration import Calibration, load_calibration
from sparsecc.search.allocation import allocate

SAMPLES = 640


@pytest.fixture(scope="module")
def errors() -> Mapping[tuple[str, str], list[float]]:
    """(sparsity, method) → relative error of the logits on fresh pictures, for every seed."""
    import torch

    pictures, labels = digits()
    found: dict[tuple[str, str], list[float]] = {}
    for seed in SEEDS:
        module = train(pictures[:TRAIN], labels[:TRAIN], seed)
        batch = {0: torch.export.Dim("batch")}
        graph = capture(module, (torch.from_numpy(pictures[:2]),), (batch,))
        run(pipeline.EXACT_BEFORE, graph, Context())
        data = load_calibration({"input": pictures[:SAMPLES]}, graph)
        dense = logits(graph, pictures[TRAIN:])
        for sparsity, (name, settings) in itertools.product(SPARSITIES, METHODS.items()):
            pruned = prune(graph, data, sparsity, settings["score"], settings.get("refit", True))
            error = output_error(logits(pruned, pictures[TRAIN:]), dense)
            found.setdefault((sparsity, name), []).append(error)
    return found


def prune(graph: ir.Model, data: Calibration, sparsity: str, method: str, refit: bool) -> ir.Model:
    model = graph.clone()
    layers = find_layers(model).layers
    spec = SparsitySpec.parse(sparsity)
    decisions = allocate(layers, spec, method=method, refit=refit)  # type: ignore[arg-type]
    prune_model(model, {name: each.choice for name, each in decisions.items()}, data)
    return model


def logits(model: ir.Model, pictures: np.ndarray) -> np.ndarray:
    found: np.ndarray = session_of_model(model).run(None, {"input": pictures})[0]
    return found


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_refit_loses_less_than_the_mask_alone_and_that_less_than_magnitude(
    errors: Mapping[tuple[str, str], list[float]], sparsity: str
) -> None:
    names = ("ALPS mask, refit", "ALPS mask only", "magnitude")
    refit, alone, magnitude = (np.mean(errors[sparsity, name]) for name in names)
    assert refit < alone < magnitude
    for seed in SEEDS:
        assert errors[sparsity, "ALPS mask, refit"][seed] < errors[sparsity, "magnitude"][seed]


def test_alps_finds_better_masks_than_sparsegpt_at_70_percent(
    errors: Mapping[tuple[str, str], list[float]],
) -> None:
    by_alps, by_sweep = (
        np.array(errors["unstructured:0.7", name])
        for name in ("ALPS mask, refit", "SparseGPT mask, refit")
    )
    assert by_alps.mean() < by_sweep.mean()
