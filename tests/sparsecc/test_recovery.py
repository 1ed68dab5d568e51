"""``compile(recover=...)``: recorded in the plan, repeated by ``apply``, within the budget."""

from __future__ import annotations

import json

import numpy as np
import pytest

import sparsecc
from sparsecc.errors import CalibrationError, PlanError
from sparsecc.report.document import document
from sparsecc.report.markdown import to_markdown
from tests import small
from tests.sparsecc.torch.recovery.cases import inputs

TARGET = "x86-64-v4"
DATA = {"x": inputs(320)}
ASKED = {"sparsity": "4x1:0.6", "score": "magnitude", "refit": False, "calibration": DATA}


def lost(model: sparsecc.Compiled, stock) -> float:
    """1 − mean cosine to the dense model on new inputs."""
    x = inputs(200, seed=3)
    got, want = model(x), stock(small.mlp("n"), x=x)
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    return float(1 - ((got * want).sum(1) / norms).mean())


@pytest.fixture(scope="module")
def recovered() -> sparsecc.Compiled:
    return sparsecc.compile(small.mlp("n"), TARGET, recover="60 steps", **ASKED)


def test_it_is_better_than_without_and_as_sparse(recovered, stock) -> None:
    alone = sparsecc.compile(small.mlp("n"), TARGET, **ASKED)
    assert lost(recovered, stock) < 0.5 * lost(alone, stock)
    densities = [[layer.density for layer in each.plan.layers] for each in (recovered, alone)]
    assert densities[0] == densities[1]
    assert alone.plan.recovery is None


@pytest.mark.parametrize("permute", [False, True])
def test_a_single_row_to_learn_from(permute: bool) -> None:
    """Of two rows one is held out; the other has no covariance."""
    data = [{"x": row[None]} for row in inputs(2)]
    settings = {"sparsity": "4x1:0.5", "recover": "2 steps", "permute": permute}
    made = sparsecc.compile(small.mlp("n"), TARGET, calibration=data, **settings)
    assert made.plan.recovery.steps == 2
    assert any(layer.choice.changes for layer in made.plan.layers)


def test_the_plan_and_the_report_say_so(recovered) -> None:
    recovery = recovered.plan.recovery
    assert recovery is not None
    assert recovery.steps == 60
    assert recovery.after < 0.5 * recovery.before
    page = document(recovered.report)
    assert "recovered in 60 steps" in to_markdown(page)
    assert page.to_json()["recovery"]["steps"] == 60
    assert "recovered in 60 steps" in str(recovered.report)


def test_apply_repeats_it_bit_for_bit(recovered, tmp_path) -> None:
    again = sparsecc.apply(small.mlp("n"), recovered.plan, calibration=DATA)
    files = [each.save(tmp_path / name) for name, each in (("a", recovered), ("b", again))]
    assert (files[0] / "model.onnx").read_bytes() == (files[1] / "model.onnx").read_bytes()
    with pytest.raises(CalibrationError, match="recovery learns"):
        sparsecc.apply(small.mlp("n"), recovered.plan)


def test_with_a_budget_more_goes_and_the_recovered_model_keeps_to_it(stock) -> None:
    limit = 0.02
    alone = sparsecc.compile(small.mlp("n"), TARGET, calibration=DATA, max_drop=limit)
    ours = sparsecc.compile(
        small.mlp("n"), TARGET, calibration=DATA, max_drop=limit, recover="60 steps"
    )
    budget = ours.plan.budget
    assert budget is not None
    assert budget.met
    assert budget.limit == limit
    assert budget.drop <= limit
    assert lost(ours, stock) <= 1.5 * limit
    assert ours.report.est_ms <= 1.01 * alone.report.est_ms
    assert [point.name for point in ours.plan.points if point.chosen] == ["recovered"]


def test_a_searched_plan_counts_on_the_recovery_that_apply_repeats(stock) -> None:
    limit = 0.02
    plan = sparsecc.plan(
        small.mlp("n"), TARGET, calibration=DATA, max_drop=limit, recover="60 steps"
    )
    assert plan.recovery is not None
    assert plan.recovery.steps == 60
    assert [point.name for point in plan.points if point.chosen] == ["recovered"]
    made = sparsecc.apply(small.mlp("n"), plan, calibration=DATA)
    written, followed = (json.loads(each.to_json()) for each in (plan, made.plan))
    for part in ("recovery", "budget"):
        assert followed[part] == written[part]
    assert lost(made, stock) <= 1.5 * limit


def test_a_second_plan_is_tried_with_a_checkpoint_of_its_own(tmp_path) -> None:
    """One step wins nothing back, so the plan that counts on a recovery breaks the budget."""
    path = tmp_path / "state.safetensors"
    made = sparsecc.compile(
        small.mlp("n"), TARGET, calibration=DATA, max_drop=0.02, recover="1 step", checkpoint=path
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == ["state-2.safetensors", path.name]
    assert made.plan.budget is not None
    assert (made.plan.budget.limit, made.plan.budget.met) == (0.02, True)


def test_a_search_that_stays_dense_says_the_budget_that_was_given() -> None:
    made = sparsecc.compile(
        small.mlp("n"), TARGET, calibration=DATA, max_drop=1e-6, recover="1 step"
    )
    assert made.plan.dense_because
    assert made.plan.recovery is None
    assert made.plan.budget is not None
    assert made.plan.budget.limit == 1e-6


def test_where_nothing_was_pruned_there_is_nothing_to_recover() -> None:
    made = sparsecc.compile(small.mlp("n"), TARGET, calibration=DATA, recover="60 steps")
    assert made.plan.recovery is None
    assert "nothing to recover: no weight was changed" in str(made.report)


def test_mistakes_are_told() -> None:
    with pytest.raises(CalibrationError, match="no labels are needed"):
        sparsecc.compile(small.mlp("n"), TARGET, sparsity="4x1:0.5", recover="9 steps")
    with pytest.raises(PlanError, match="not an effort"):
        sparsecc.compile(small.mlp("n"), TARGET, recover="a while", calibration=DATA)
    with pytest.raises(PlanError, match="nobody asked for"):
        sparsecc.compile(small.mlp("n"), TARGET, checkpoint="x.safetensors", calibration=DATA)
