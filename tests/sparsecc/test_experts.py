"""``compile(experts="0.25")``: networks become experts, are written down and carried out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sparsecc
from sparsecc.errors import CalibrationError, PlanError
from sparsecc.search.plan import Plan
from tests.passes.split.planted import Planted

PLANTED = Planted(features=256, length=128)


def compiled(planted: Planted = PLANTED, **more: Any) -> sparsecc.Compiled:
    asked: dict[str, Any] = {
        "calibration": planted.samples(16),
        "experts": "0.125",
        "sparsity": "dense",
        "executor": "serial",
        **more,
    }
    return sparsecc.compile(planted.model(), "x86-64-v4", **asked)


@pytest.fixture(scope="module")
def made() -> sparsecc.Compiled:
    return compiled(verify=True)


def test_the_artifact_has_experts_and_computes_nearly_the_same(made) -> None:
    (entry,) = made.plan.experts
    assert (entry.experts, entry.chosen, entry.neurons) == (16, 2, 512)
    assert entry.density < 0.3
    assert entry.predicted_ms < entry.dense_ms
    assert [row.op for row in made.report.rows if row.name == "up"] == ["SparseMoE_relu"]
    assert made.quality["rel_error"] < 0.01
    assert made.report.numerics["max_rel_error"] < 1e-5


def test_the_report_says_what_became_experts_and_counts_no_time_twice(made) -> None:
    assert "1 network through 12% of its neurons" in str(made.report)
    (entry,) = made.plan.experts
    assert made.report.dense_ms == pytest.approx(entry.dense_ms, abs=1e-5)


def test_a_plan_is_carried_out_to_the_same_bytes(made, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    made.plan.save(path)
    again = sparsecc.apply(
        PLANTED.model(), Plan.load(path), calibration=PLANTED.samples(16), executor="serial"
    )
    assert again.plan.experts == made.plan.experts
    one, other = (each.save(tmp_path / str(at)) for at, each in enumerate((made, again)))
    assert (one / "model.onnx").read_bytes() == (other / "model.onnx").read_bytes()


def test_fewer_experts_where_more_may_be_lost() -> None:
    """Planted clusters are one or two experts of a token; where there are none, all stay."""
    plan = compiled(experts="auto", max_drop=0.2).plan
    assert plan.experts[0].chosen <= 2
    assert plan.budget is not None
    assert plan.budget.met
    vague = compiled(PLANTED.variant(noise=4.0), experts="auto", max_drop=1e-9)
    assert vague.plan.experts[0].is_dense
    assert vague.plan.experts[0].reason


def test_gelu_is_refused_with_its_density() -> None:
    made = compiled(PLANTED.variant(activation="Gelu"))
    (entry,) = made.plan.experts
    assert entry.is_dense
    assert "100% of its hidden features are not zero behind gelu" in entry.reason
    assert "tune the model to ReLU first" in entry.reason
    assert entry.reason in {each.reason for each in made.plan.refusals}
    assert made.quality["rel_error"] == 0


def test_experts_and_zeros_beside_each_other() -> None:
    made = compiled(experts="0.25", sparsity="existing")
    assert not made.plan.experts[0].is_dense


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"experts": "1.5"}, PlanError, "no share of the neurons: '1.5'"),
        ({"experts": "few"}, PlanError, "no share of the neurons: 'few'"),
        ({"experts": "auto"}, PlanError, "give max_drop, or the share"),
        ({"experts": "0.25", "max_ms": 1.0}, PlanError, "not max_ms"),
        ({"experts": "0.25", "recover": "1 steps"}, PlanError, "recovery does not train experts"),
        ({"experts": "0.25", "calibration": None}, CalibrationError, "router of experts learns"),
    ],
)
def test_what_cannot_be_asked_for(asked: dict[str, Any], error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        compiled(**asked)


def test_a_model_without_such_a_network() -> None:
    with pytest.raises(PlanError, match="no feed-forward network that could become experts"):
        compiled(PLANTED.variant(activation="Tanh"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "other"}, "'other' of 512 neurons, the model has none"),
        ({"neurons": 256}, "of 256 neurons, the model has one of 512"),
        ({"chosen": 17}, "not fewer than are chosen"),
        ({"experts": 15}, "experts must be of one size"),
    ],
)
def test_a_plan_that_does_not_fit(made, change: dict[str, Any], said: str) -> None:
    plan = json.loads(made.plan.to_json())
    plan["experts"][0] |= change
    with pytest.raises(PlanError, match=said):
        sparsecc.apply(
            PLANTED.model(), Plan.from_json(json.dumps(plan)), calibration=PLANTED.samples(4)
        )
