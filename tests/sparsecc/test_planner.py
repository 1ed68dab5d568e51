"""Searched plans: within the budget on data never seen, explained, repeatable, and applicable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sparsecc
from sparsecc.errors import CalibrationError, PlanError
from sparsecc.search.plan import Choice
from sparsecc.search.why_not import RUNNER_UP
from tests import small

LIMIT = 0.05
TARGET = "x86-64-v4"


def samples(seed: int, count: int) -> np.ndarray:
    """Inputs that lie in a tenth of all directions: then many weights are to spare."""
    rng = np.random.default_rng(5)
    mixing = rng.standard_normal((small.WIDTH, small.WIDTH // 10))
    noise = np.random.default_rng(seed).standard_normal((count, small.WIDTH // 10))
    return (noise @ mixing.T / 5).astype(np.float32)


DATA = {"x": samples(0, 640)}


@pytest.fixture(scope="module")
def compiled() -> sparsecc.Compiled:
    return sparsecc.compile(small.mlp("n"), TARGET, calibration=DATA, max_drop=LIMIT)


def drop(model: sparsecc.Compiled, x: np.ndarray, stock) -> float:
    """1 − mean cosine to the dense model."""
    got, want = model(x), stock(small.mlp("n"), x=x)
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    return float(1 - ((got * want).sum(1) / norms).mean())


def test_the_plan_is_faster_and_keeps_to_its_budget_on_new_data(compiled, stock) -> None:
    plan = compiled.plan
    assert plan.budget is not None
    assert (plan.budget.kind, plan.budget.limit, plan.budget.metric) == ("drop", LIMIT, "cosine")
    assert plan.budget.met
    assert 0 < plan.budget.drop <= LIMIT
    assert drop(compiled, samples(9, 2000), stock) <= LIMIT
    assert compiled.report.speedup > 1.05
    assert any(layer.density < 1 for layer in plan.layers)


def test_the_plan_beats_the_uniform_ones(compiled) -> None:
    points = {point.name: point for point in compiled.plan.points}
    (chosen,) = (point for point in points.values() if point.chosen)
    rivals = [p for name, p in points.items() if name.startswith("uniform") and p.drop <= LIMIT]
    assert all(chosen.predicted_ms <= rival.predicted_ms for rival in rivals)
    assert points["dense"].drop == 0
    assert list(points.values()) == sorted(points.values(), key=lambda p: (p.predicted_ms, p.name))


def test_every_option_says_why_not(compiled) -> None:
    plan = compiled.plan
    assert (plan.spec, plan.mode, plan.seed) == ("search", "fast", 0)
    for layer in plan.layers:
        chosen = [option for option in layer.options if not option.why_not]
        assert [option.choice.pattern for option in chosen] == [layer.choice.pattern]
        assert [option.choice.sparsity for option in chosen] == [layer.choice.sparsity]
        seconds = [o for o in layer.options if o.why_not.startswith(RUNNER_UP)]
        assert len(seconds) == min(1, len(layer.options) - 1)


def test_the_same_search_gives_the_same_plan(compiled) -> None:
    again = sparsecc.plan(small.mlp("n"), TARGET, calibration=DATA, max_drop=LIMIT)
    assert again.to_json() == compiled.plan.to_json()


@pytest.mark.parametrize("executor", ["serial", "processes", "ray"])
def test_the_plan_is_the_same_wherever_layers_are_worked_on(
    compiled, executor: str, monkeypatch
) -> None:
    monkeypatch.setattr("sparsecc.passes.weights.prune_layer._WORTH_SENDING", 0)
    there = sparsecc.plan(
        small.mlp("n"), TARGET, calibration=DATA, max_drop=LIMIT, executor=executor
    )
    assert there.to_json() == compiled.plan.to_json()


def test_applying_the_plan_gives_the_same_model(compiled, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    compiled.plan.save(path)
    applied = sparsecc.apply(small.mlp("n"), sparsecc.Plan.load(path), calibration=DATA)
    densities = [layer.density for layer in applied.plan.layers]
    assert densities == pytest.approx([layer.density for layer in compiled.plan.layers], abs=1e-3)
    assert applied.plan.budget == compiled.plan.budget
    assert [layer.options for layer in applied.plan.layers] == [
        layer.options for layer in compiled.plan.layers
    ]


def tuned() -> onnx.ModelProto:
    """The same model a few steps of training later."""
    model = small.mlp("n")
    rng = np.random.default_rng(3)
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        moved = weight + 0.01 * rng.standard_normal(weight.shape).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
    return model


def test_a_plan_serves_a_checkpoint_that_was_trained_further(compiled, stock) -> None:
    applied = sparsecc.apply(tuned(), compiled.plan, calibration=DATA)
    assert [layer.choice for layer in applied.plan.layers] == [
        layer.choice for layer in compiled.plan.layers
    ]
    assert applied.plan.model_hash != compiled.plan.model_hash
    x = samples(4, 64)
    got, want = applied(x), stock(tuned(), x=x)
    assert np.square(got - want).sum() < 0.3 * np.square(want).sum()


def test_an_edited_plan_is_followed(compiled) -> None:
    plan = compiled.plan
    dense = Choice.model_validate_json('{"pattern": "dense", "sparsity": 0.0}')
    first, *rest = plan.layers
    edited = plan.model_copy(update={"layers": (first.model_copy(update={"choice": dense}), *rest)})
    applied = sparsecc.apply(small.mlp("n"), edited, calibration=DATA)
    assert applied.plan.layers[0].density == 1


def test_a_plan_for_another_model_is_refused(compiled) -> None:
    with pytest.raises(PlanError, match="the plan has a layer 'fc1', the model has none"):
        sparsecc.apply(small.mobilenet(), compiled.plan)


def test_a_plan_of_other_shapes_is_refused(compiled) -> None:
    first, *rest = compiled.plan.layers
    other = compiled.plan.model_copy(
        update={"layers": (first.model_copy(update={"rows": 17}), *rest)}
    )
    with pytest.raises(
        PlanError, match=r"'fc1' as Gemm \[17, 256\], the model as Gemm \[256, 256\]"
    ):
        sparsecc.apply(small.mlp("n"), other)


def test_a_time_budget_is_kept(compiled) -> None:
    points = {point.name: point for point in compiled.plan.points}
    limit = 0.8 * points["dense"].predicted_ms
    plan = sparsecc.plan(small.mlp("n"), TARGET, calibration=DATA, max_ms=limit)
    assert plan.budget is not None
    assert plan.budget.met
    (chosen,) = (point for point in plan.points if point.chosen)
    assert chosen.predicted_ms <= limit


def test_a_budget_that_no_plan_meets_says_what_the_best_comes_to() -> None:
    with pytest.raises(PlanError, match="no plan keeps to 10 bytes of weights: the nearest takes"):
        sparsecc.plan(small.mlp("n"), TARGET, calibration=DATA, max_bytes=10)
    best = sparsecc.plan(small.mlp("n"), TARGET, calibration=DATA, max_bytes=10, best_effort=True)
    assert best.budget is not None
    assert not best.budget.met


def test_a_model_that_cannot_gain_stays_dense_and_says_why() -> None:
    x = {"x": np.random.default_rng(0).standard_normal((320, 256)).astype(np.float32)}
    made = sparsecc.compile(small.mlp("n"), TARGET, calibration=x, max_drop=1e-4)
    assert all(layer.density == 1 for layer in made.plan.layers)
    assert "every faster plan that was weighed loses" in made.plan.dense_because
    assert made.manifest.library is None


def test_a_gain_within_the_error_of_estimates_is_none(monkeypatch) -> None:
    monkeypatch.setattr("sparsecc.planner.WORTH_CHANGING", 0.01)
    plan = sparsecc.plan(small.mlp("n"), TARGET, calibration=DATA, max_drop=LIMIT)
    assert all(layer.density == 1 for layer in plan.layers)
    assert "of the model's time, less than such estimates are good for" in plan.dense_because
    (chosen,) = (point for point in plan.points if point.chosen)
    assert chosen.name == "dense"


def test_labels_make_accuracy_the_measure(stock) -> None:
    truth = stock(small.mlp("n"), x=DATA["x"]).argmax(-1)
    plan = sparsecc.plan(small.mlp("n"), TARGET, calibration=DATA, labels=truth, max_drop=LIMIT)
    assert plan.budget is not None
    assert plan.budget.metric == "accuracy"
    assert plan.budget.drop <= LIMIT


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_drop": 0.01, "max_ms": 1.0}, PlanError, "needs one budget, and there are 2"),
        ({"max_drop": 0.01, "sparsity": "4x1:0.5"}, PlanError, "decides on every layer by itself"),
        ({"max_drop": 1.5}, PlanError, "max_drop is 1.5"),
        ({"max_ms": 0.0}, PlanError, "max_ms is 0"),
        ({"max_drop": 0.01, "executor": "moon"}, PlanError, "unknown executor 'moon'"),
        ({"max_drop": 0.01, "mode": "hasty"}, PlanError, "unknown mode 'hasty'"),
        ({"max_drop": 0.01, "quality": "beauty"}, CalibrationError, "unknown measure"),
        ({"max_drop": 0.01, "calibration": None}, CalibrationError, "needs calibration data"),
        (
            {"max_drop": 0.01, "calibration": {"x": samples(0, 1)}},
            CalibrationError,
            "nothing is left to judge",
        ),
        (
            {"max_drop": 0.01, "labels": np.zeros(3, int)},
            CalibrationError,
            r"labels of shape \[3\] for 640 calibration samples",
        ),
    ],
)
def test_a_bad_request_is_one_clear_error(settings, error, message) -> None:
    with pytest.raises(error, match=message):
        sparsecc.compile(small.mlp("n"), TARGET, **{"calibration": DATA, **settings})


def test_a_search_may_put_channels_in_order_first(stock) -> None:
    made = sparsecc.compile(small.mlp("n"), TARGET, calibration=DATA, max_drop=LIMIT, permute=True)
    assert made.plan.permuted == "4x1:0.5"
    assert drop(made, samples(4, 200), stock) < 2 * LIMIT
    again = sparsecc.apply(small.mlp("n"), made.plan, calibration=DATA)
    assert again.plan.permuted == made.plan.permuted
    x = samples(5, 20)
    assert np.array_equal(again(x), made(x))
