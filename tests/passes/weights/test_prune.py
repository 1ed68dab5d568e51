from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper

from sparsecc.errors import PlanError
from sparsecc.executor import open_executor
from sparsecc.formats.patterns import Pattern, SparsitySpec, block_sums, detect
from sparsecc.passes.weights import prune_layer as module
from sparsecc.passes.weights.layers import find_layers, matrix
from sparsecc.passes.weights.prune import detect_layers, prune_model
from sparsecc.passes.weights.prune_layer import (
    RIDGES,
    LayerJob,
    Pruned,
    aim,
    output_error,
    prune_layers,
)
from sparsecc.passes.weights.refit import refit
from sparsecc.quality.calibration import load_calibration
from sparsecc.quality.moments import Goal, Moments
from sparsecc.search.allocation import allocate
from sparsecc.search.plan import Choice, Method

node = helper.make_node


def moments(x: NDArray[Any], groups: int = 1) -> Moments:
    x = x.reshape(len(x), groups, -1).transpose(1, 0, 2)
    h = np.einsum("gnk,gnl->gkl", x, x) / x.shape[1]
    return Moments(h, x.mean(axis=1), x.shape[1])


def inputs(rows: int, cols: int, seed: int) -> NDArray[np.float64]:
    """Correlated inputs whose mean is not zero, the same distribution for every seed."""
    mix = np.random.default_rng(99).standard_normal((cols, cols))
    mix *= np.exp(-np.arange(cols) / cols * 2)[:, None]
    return np.maximum(np.random.default_rng(seed).standard_normal((rows, cols)) @ mix, 0)


def prune_layer(
    weight: NDArray[Any],
    choice: Choice,
    train: Moments,
    held_out: Moments | None,
    *,
    may_shift: bool = False,
) -> Pruned:
    (pruned,) = prune_layers([LayerJob("layer", weight, choice, train, held_out, may_shift)])
    return pruned


W = np.random.default_rng(5).standard_normal((32, 48))
CHOICE = Choice(pattern=Pattern.parse("4x1"), sparsity=0.5)


def test_the_reported_loss_is_the_held_out_output_error() -> None:
    held = inputs(500, 48, 2)
    pruned = prune_layer(W, CHOICE, moments(inputs(2000, 48, 1)), moments(held), may_shift=True)
    assert pruned.shift is not None
    assert pruned.update.startswith("refit")
    difference = held @ (W - pruned.weight).T - pruned.shift
    expected = np.sum(difference**2) / np.sum((held @ W.T) ** 2)
    assert pruned.loss == pytest.approx(expected)
    assert pruned.mask_loss is not None
    assert expected < pruned.mask_loss


def test_bias_correction_helps_where_the_mean_is_not_zero() -> None:
    train, held = moments(inputs(2000, 48, 1)), moments(inputs(500, 48, 2))
    fixed = prune_layer(W, CHOICE, train, held)
    moved = prune_layer(W, CHOICE, train, held, may_shift=True)
    assert fixed.shift is None
    assert fixed.loss is not None
    assert moved.loss is not None
    assert moved.loss < fixed.loss


def pairs(rows: int, cols: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a layer reads after others were pruned, and what it read before."""
    before = inputs(rows, cols, seed)
    drift = np.eye(cols) + np.random.default_rng(98).standard_normal((cols, cols)) / 12
    noise = np.random.default_rng(seed + 100).standard_normal(before.shape) / 4
    return before @ drift + noise + 0.3, before


def paired(x: NDArray[np.float64], z: NDArray[np.float64]) -> Moments:
    goal = Goal((z.T @ x / len(x))[None], (z.T @ z / len(x))[None], z.mean(axis=0)[None])
    return dataclasses.replace(moments(x), goal=goal)


@pytest.mark.parametrize("may_shift", [False, True])
def test_a_refit_is_least_squares_to_the_dense_models_outputs(may_shift: bool) -> None:
    x, z = pairs(600, 24, 1)
    train, w = paired(x, z), np.random.default_rng(6).standard_normal((8, 24))
    job = LayerJob("layer", w, CHOICE, train, None, may_shift)
    assert job.cross is not None
    mask = np.random.default_rng(7).random(w.shape) > 0.4
    ridge = 0.05
    target = aim(w, job.second[0], job.cross[0], ridge)
    found = refit(target, mask, job.second[0], ridge)
    weight = np.sqrt(ridge * np.diag(job.second[0]).mean())
    if may_shift:
        x, z = x - x.mean(axis=0), z - z.mean(axis=0)
    for row, kept, value in zip(w, mask, found, strict=True):
        left = np.concatenate([x[:, kept] / np.sqrt(len(x)), weight * np.eye(kept.sum())])
        right = np.concatenate([z @ row / np.sqrt(len(x)), weight * row[kept]])
        np.testing.assert_allclose(value[kept], np.linalg.lstsq(left, right, rcond=None)[0])
        assert not value[~kept].any()


def test_losses_are_distances_from_the_dense_models_outputs() -> None:
    held_x, held_z = pairs(500, 48, 2)
    train, held = paired(*pairs(2000, 48, 1)), paired(held_x, held_z)
    pruned = prune_layer(W, CHOICE, train, held, may_shift=True)
    assert pruned.shift is not None
    difference = held_z @ W.T - held_x @ pruned.weight.T - pruned.shift
    expected = np.sum(difference**2) / np.sum((held_z @ W.T) ** 2)
    assert pruned.loss == pytest.approx(expected)
    blind = prune_layer(
        W, CHOICE, dataclasses.replace(train, goal=None), moments(held_x), may_shift=True
    )
    assert pruned.loss < 0.9 * output_error(W, blind.weight, held, blind.shift)


def test_updates_that_do_not_hold_out_are_refused() -> None:
    few = moments(inputs(6, 48, 1))
    other = moments(-(np.random.default_rng(3).standard_normal((500, 48)) ** 3))
    pruned = prune_layer(W, CHOICE, few, other, may_shift=True)
    assert pruned.update == "mask only"
    assert pruned.shift is None
    assert pruned.loss == pruned.mask_loss
    assert "held-out" in pruned.reason


def test_nothing_held_out_or_no_refit_keeps_the_values() -> None:
    train = moments(inputs(500, 48, 1))
    alone = prune_layer(W, CHOICE, train, None)
    assert alone.loss is None
    assert "held out" in alone.reason
    plain = prune_layer(W, CHOICE.model_copy(update={"refit": False}), train, train)
    for pruned in (alone, plain):
        kept = pruned.weight != 0
        assert np.array_equal(pruned.weight[kept], W[kept])


def test_groups_are_pruned_each_with_its_own_inputs() -> None:
    x = inputs(3000, 96, 1)
    choice = CHOICE.model_copy(update={"refit": False})
    pruned = prune_layer(W, choice, moments(x, 2), moments(x, 2))
    halves = [
        prune_layer(W[16 * g : 16 * g + 16], choice, moments(x[:, at]), None).weight
        for g, at in enumerate([slice(0, 48), slice(48, 96)])
    ]
    assert np.array_equal(pruned.weight, np.concatenate(halves))
    assert not np.array_equal(halves[0] != 0, halves[1] != 0)


@pytest.mark.parametrize("text", ["unstructured:0.5", "4x1:0.5", "2:4"])
def test_refit_beats_mask_beats_magnitude(text: str) -> None:
    spec = SparsitySpec.parse(text)
    assert spec.pattern is not None
    train, held = moments(inputs(2000, 48, 1)), moments(inputs(500, 48, 2))

    def loss(method: Method, refit: bool) -> float:
        choice = Choice(pattern=spec.pattern, sparsity=spec.sparsity, method=method, refit=refit)
        found = prune_layer(W, choice, train, held, may_shift=True).loss
        assert found is not None
        return found

    by_magnitude = loss("magnitude", refit=False)
    for method in ("wanda", "sparsegpt", "alps"):
        assert loss(method, refit=True) < loss(method, refit=False)
    assert loss("sparsegpt", refit=True) < by_magnitude
    assert loss("alps", refit=True) < loss("sparsegpt", refit=True)


def test_other_processes_give_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    train, held = moments(inputs(2000, 320, 1)), moments(inputs(500, 320, 2))
    jobs = [
        LayerJob(name, rng.standard_normal((512, 320)), CHOICE, train, held, True) for name in "ab"
    ]
    with open_executor("processes", 2) as executor:
        there = prune_layers(jobs, executor)
    here = prune_layers(jobs)
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one.weight, other.weight)
        assert (one.loss, one.mask_loss, one.update) == (other.loss, other.mask_loss, other.update)
    assert not np.array_equal(here[0].weight, here[1].weight)


def test_output_error_of_zero_outputs_is_zero() -> None:
    nothing = moments(np.zeros((4, 48)))
    assert output_error(W, W * 0, nothing) == 0.0


def network(build: Any) -> ir.Model:
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", ["x", "a"], ["h0"], name="stem", pads=[1, 1, 1, 1]),
        node("Relu", ["h0"], ["h1"]),
        node("Conv", ["h1", "b", "bb"], ["h2"], name="body", group=2, strides=[2, 2]),
        node("Relu", ["h2"], ["h3"]),
        node("Flatten", ["h3"], ["h4"]),
        node("MatMul", ["h4", "q"], ["q1"], name="query"),
        node("MatMul", ["h4", "k"], ["k1"], name="key"),
        node("Add", ["k1", "kb"], ["k2"]),
        node("Mul", ["q1", "k2"], ["h5"]),
        node("Gemm", ["h5", "d"], ["y"], name="head"),
    ]
    shapes = {"a": (32, 3, 3, 3), "b": (32, 16, 3, 3), "bb": (32,), "q": (288, 64), "k": (288, 64)}
    shapes |= {"kb": (64,), "d": (64, 10)}
    weights = {n: rng.standard_normal(s).astype(np.float32) / 4 for n, s in shapes.items()}
    return build(nodes, weights, {"x": ["n", 3, 8, 8]})  # type: ignore[no-any-return]


X = np.random.default_rng(7).standard_normal((60, 3, 8, 8)).astype(np.float32)


def choices(model: ir.Model, text: str, **options: Any) -> dict[str, Choice]:
    survey = find_layers(model)
    spec = SparsitySpec.parse(text)
    found = detect_layers(survey.layers)
    decisions = allocate(survey.layers, spec, detected=found, **options)
    return {name: decision.choice for name, decision in decisions.items()}


def test_a_model_is_pruned_layer_by_layer(build: Any, run: Any) -> None:
    model = network(build)
    before = run(model, x=X)
    steps: list[tuple[str, int, int]] = []
    results = prune_model(
        model,
        choices(model, "4x1:0.5"),
        load_calibration({"x": X}, model),
        on_progress=lambda *step: steps.append(step),
    )
    assert [result.name for result in results] == ["body", "query", "key"]
    layers = {layer.name: layer for layer in find_layers(model).layers}
    for result in results:
        weight = matrix(layers[result.name])
        assert result.density == pytest.approx(0.5, abs=0.01)
        assert np.count_nonzero(weight) / weight.size == pytest.approx(result.density)
        assert set(np.unique(block_sums(weight != 0, (4, 1)))) == {0, 4}
        assert result.loss is not None
        assert result.mask_loss is not None
        assert result.accepted == (result.loss < result.mask_loss)
    assert steps[-1][1] < steps[-1][2]
    after = run(model, x=X)
    assert after.shape == before.shape
    assert 0 < np.mean((after - before) ** 2) < np.mean(before**2)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "alps"])
@pytest.mark.parametrize("text", ["1x4:0.5", "1x8:0.75", "2:4", "1:4", "4:8"])
def test_groups_of_inputs_are_made_by_every_method_and_recognised(
    build: Any, text: str, method: Method
) -> None:
    """On products and on convolutions, where 16 channels hold whole groups."""
    model = network(build)
    before = {layer.name: matrix(layer) for layer in find_layers(model).layers}
    data = load_calibration({"x": X}, model)
    results = prune_model(model, choices(model, text, method=method), data)
    pattern = SparsitySpec.parse(text).pattern
    layers = {layer.name: layer for layer in find_layers(model).layers}
    assert [result.name for result in results] == ["body", "query", "key"]
    for result in results:
        weight = matrix(layers[result.name])
        found = detect(weight)
        assert found.pattern == pattern
        # 18 groups of eight in a row are few to round to, which Wanda does row by row
        assert found.density == pytest.approx(1 - SparsitySpec.parse(text).sparsity, abs=0.03)
        assert result.method == method
        assert result.loss is not None
        assert result.mask_loss is not None
        assert result.loss <= result.mask_loss
        assert result.accepted == (result.loss < result.mask_loss)
        changed = not np.array_equal(weight[weight != 0], before[result.name][weight != 0])
        assert changed == result.update.startswith("refit")
    body = layers["body"].node.inputs[1]
    assert body is not None
    stored = body.const_value.numpy()  # type: ignore[union-attr]
    in_channels = stored.transpose(0, 2, 3, 1).reshape(-1, 16) != 0
    if pattern is not None and pattern.kind == "nm":
        grouped = in_channels.reshape(-1, pattern.group).sum(axis=1)
        assert set(grouped) == {pattern.keep}


def test_pruning_twice_gives_the_same_bytes(build: Any) -> None:
    serialised = []
    for _ in range(2):
        model = network(build)
        prune_model(model, choices(model, "4x1:0.5"), load_calibration({"x": X}, model))
        serialised.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert serialised[0] == serialised[1]


def test_without_calibration_magnitude_with_a_warning(build: Any) -> None:
    model = network(build)
    old = matrix(find_layers(model).layers[2])
    results = prune_model(model, choices(model, "unstructured:0.75"))
    for result in results:
        assert result.method == "magnitude"
        assert "no calibration" in result.reason
        assert result.loss is None
    new = matrix(find_layers(model).layers[2])
    kept = new != 0
    assert np.mean(kept) == pytest.approx(0.25, abs=1e-3)
    assert np.array_equal(new[kept], old[kept])
    assert np.abs(old[kept]).min() >= np.abs(old[~kept]).max()


def test_existing_zeros_are_found_and_kept_as_they_are(build: Any) -> None:
    model = network(build)
    prune_model(model, choices(model, "8x1:0.75"))
    before = [matrix(layer) for layer in find_layers(model).layers]
    found = choices(model, "existing")
    assert [str(choice.pattern) for choice in found.values()] == [
        "dense", "8x1", "8x1", "8x1", "dense"
    ]  # fmt: skip
    results = prune_model(model, found)
    assert [result.loss for result in results] == [0.0] * 3
    assert all(result.density == pytest.approx(0.25, abs=0.01) for result in results)
    for old, layer in zip(before, find_layers(model).layers, strict=True):
        assert np.array_equal(old, matrix(layer))


def test_unknown_layers_are_refused(build: Any) -> None:
    with pytest.raises(PlanError, match="nowhere"):
        prune_model(network(build), {"nowhere": CHOICE})


def test_what_is_imitated_is_solved_once_for_each_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask's own ridge serves its refit too."""
    solved = []
    monkeypatch.setattr(module, "aim", lambda *of: solved.append(of[-1]) or aim(*of))
    prune_layer(W, CHOICE, paired(*pairs(2000, 48, 1)), paired(*pairs(500, 48, 2)))
    assert sorted(solved) == sorted(RIDGES)
