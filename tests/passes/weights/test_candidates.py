"""Candidates: what is offered is faster, and a loss is that of the weights that come with it."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from onnx.numpy_helper import to_array

from sparsecc import targets
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.executor import SERIAL
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights.candidates import Candidate, Probe, measure_layers, offer
from sparsecc.passes.weights.layers import Layer, find_layers, matrix
from sparsecc.passes.weights.sensitivity import sensitivity
from sparsecc.progress import silent
from sparsecc.quality.calibration import load_calibration
from sparsecc.quality.exam import set_exam
from sparsecc.search.search import MODES, Mode
from tests import small

TARGET = targets.get("x86-64-v4")


def canonical(proto: object) -> tuple[object, dict[str, Layer]]:
    graph = capture(proto)
    run(pipeline.EXACT_BEFORE, graph, Context(target=TARGET))
    return graph, {layer.name: layer for layer in find_layers(graph).layers}


@pytest.mark.parametrize("mode", MODES)
def test_the_layer_as_it_is_comes_first_and_the_rest_is_faster(mode: Mode) -> None:
    _, layers = canonical(small.mlp("n"))
    kept, *others = offer(layers["fc1"], TARGET, mode, "alps")
    assert (kept.choice.method, kept.density, kept.loss) == ("existing", 1.0, 0.0)
    assert kept.weight_bytes == 4 * 256 * 256
    assert others
    assert all(each.ms < kept.ms and each.density < 1 for each in others)
    assert all(each.choice.method == "alps" for each in others)
    by_pattern = itertools.groupby(others, key=lambda each: each.choice.pattern)
    for _, group in by_pattern:
        times, sizes = zip(*((each.ms, each.weight_bytes) for each in group), strict=True)
        assert list(times) == sorted(times, reverse=True)
        assert list(sizes) == sorted(sizes, reverse=True)


def test_a_layer_that_is_kept_dense_has_nothing_else() -> None:
    _, layers = canonical(small.mlp("n"))
    assert len(offer(layers["head"], TARGET, "fast", "alps")) == 1


def test_zeros_that_are_there_are_the_first_candidate() -> None:
    _, layers = canonical(small.mobilenet("4x1:0.8"))
    kept, *others = offer(layers["block7.pointwise"], TARGET, "fast", "alps")
    assert str(kept.choice.pattern) == "4x1"
    assert kept.density == pytest.approx(0.2, abs=0.01)
    assert all(each.density < kept.density for each in others)


def test_patterns_that_do_not_fit_the_groups_are_not_offered() -> None:
    _, layers = canonical(small.mobilenet())
    for layer in layers.values():
        for each in offer(layer, TARGET, "thorough", "alps")[1:]:
            assert (layer.rows // layer.groups) % each.choice.pattern.block[0] == 0


@pytest.fixture(scope="module")
def measured() -> tuple[Layer, list[Candidate], Probe, np.ndarray]:
    """Candidates of the first layer, the probe, and the inputs its held-out batches have."""
    graph, layers = canonical(small.mlp("n"))
    x = small.tokens(0, 256)
    data = load_calibration({"x": x}, graph, held_out_every=2)
    layer = layers["fc1"]
    offered = offer(layer, TARGET, "fast", "alps")
    choices = {"fc1": [each.choice for each in offered]}
    losses, probes = measure_layers(graph, choices, data, SERIAL, silent)
    found = [
        dataclasses.replace(each, loss=loss)
        for each, loss in zip(offered, losses["fc1"], strict=True)
    ]
    return layer, found, probes["fc1"], np.concatenate([feed["x"] for feed in data.held_out])


def test_a_loss_is_the_error_of_the_weights_on_held_out_data(measured) -> None:
    layer, found, probe, x = measured
    wanted = x @ matrix(layer).astype(np.float64).T
    got = x @ probe.weight.T.astype(np.float64) + probe.shift
    loss = np.square(got - wanted).sum() / np.square(wanted).sum()
    assert probe.loss == pytest.approx(loss, rel=1e-3)
    assert probe.loss in [each.loss for each in found[1:]]
    assert np.count_nonzero(probe.weight) / probe.weight.size == pytest.approx(
        next(each.density for each in found[1:] if each.loss == probe.loss), abs=0.01
    )


def test_the_probe_is_the_middle_one(measured) -> None:
    _, found, probe, _ = measured
    losses = [each.loss for each in found[1:]]
    below = sum(loss < probe.loss for loss in losses)
    assert abs(below - (len(losses) - 1 - below)) <= 1


def test_more_zeros_lose_more(measured) -> None:
    _, found, _, _ = measured
    for _, group in itertools.groupby(found[1:], key=lambda each: each.choice.pattern):
        losses = [each.loss for each in group]
        assert losses == sorted(losses)


def test_a_layer_that_nothing_changes_has_no_probe() -> None:
    graph, layers = canonical(small.mlp("n"))
    data = load_calibration({"x": small.tokens(0, 64)}, graph, held_out_every=2)
    kept = offer(layers["fc1"], TARGET, "fast", "alps")[:1]
    found = measure_layers(graph, {"fc1": [kept[0].choice]}, data, SERIAL, silent)
    assert found == ({"fc1": [0.0]}, {})


def test_the_sensitivity_of_the_last_layer_is_that_of_the_outputs() -> None:
    proto = small.mlp("n")
    graph, layers = canonical(proto)
    data = load_calibration({"x": small.tokens(0, 128)}, graph, held_out_every=2)
    exam = set_exam(session_of_model(graph), data.held_out)
    head, before = layers["head"], matrix(layers["head"]).copy()
    halved = Probe(0.25, (0.5 * before).astype(np.float32), None)
    bias = next(to_array(t) for t in proto.graph.initializer if t.name == "head.bias")
    errors = [
        np.square(0.5 * (outputs[0] - bias)).sum() / np.square(outputs[0]).sum()
        for outputs in exam.dense
    ]
    found = sensitivity(graph, "head", halved, exam)
    assert found == pytest.approx(np.mean(errors) / 0.25, rel=1e-3)
    assert np.array_equal(matrix(head), before)
