"""``compile(attention="8x16x16")``: searched, written down, carried out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparsecc
from sparsecc.errors import CalibrationError, PlanError
from sparsecc.search.plan import Plan
from tests import small
from tests.passes.attention import planted

LAYERS = 2


def compiled(**more: Any) -> sparsecc.Compiled:
    settings: dict[str, Any] = {
        "calibration": planted.samples(4),
        "attention": planted.GRID.spec,
        "sparsity": "dense",
        "executor": "serial",
        **more,
    }
    return sparsecc.compile(planted.exported(LAYERS), "x86-64-v4", **settings)


@pytest.fixture(scope="module")
def made() -> sparsecc.Compiled:
    return compiled()


def test_the_artifact_computes_nearly_the_same_over_kept_blocks(made) -> None:
    assert [[head.mode for head in each.heads] for each in made.plan.attention] == planted.modes()[
        :LAYERS
    ]
    assert 0 < made.quality["rel_error"] < 0.01
    assert made.report.numerics["max_rel_error"] < 1e-4


def test_the_report_says_what_is_kept(made) -> None:
    assert "2 attentions over 15% of their blocks" in str(made.report)


def test_a_plan_is_carried_out_to_the_same_bytes(made, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    made.plan.save(path)
    again = sparsecc.apply(
        planted.exported(LAYERS),
        Plan.load(path),
        calibration=planted.samples(4),
        executor="serial",
    )
    assert again.plan.attention == made.plan.attention
    one, other = (each.save(tmp_path / str(at)) for at, each in enumerate((made, again)))
    assert (one / "model.onnx").read_bytes() == (other / "model.onnx").read_bytes()


def test_what_is_lost_keeps_to_the_limit() -> None:
    """A limit that heads with wide patterns meet and the rest would not."""
    loose, tight = (
        compiled(max_drop=limit, quality="relative-error", calibration=planted.samples(6)).plan
        for limit in (0.5, 1e-7)
    )
    assert loose.budget.met
    assert loose.budget.drop <= 0.5
    assert tight.budget.drop <= 1e-7
    assert all(each.is_dense == bool(each.reason) for each in (*loose.attention, *tight.attention))
    kept = [sum(each.predicted_ms for each in plan.attention) for plan in (loose, tight)]
    assert kept[0] < kept[1]


def test_without_data_there_is_no_search() -> None:
    with pytest.raises(CalibrationError, match="are none"):
        compiled(calibration=None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"attention": "16x24"}, "no grid of tokens"),
        ({"attention": "8x16x15"}, "1920 tokens, the attention has 2048"),
        ({"max_ms": 3.0}, "not max_ms"),
        ({"max_drop": 0.1, "sparsity": "4x1:0.8"}, "decides on every layer"),
    ],
)
def test_what_cannot_be_done_is_said(more: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        compiled(**more)


def test_a_model_without_attention_is_refused() -> None:
    data = {"x": np.zeros((8, 256), np.float32)}
    with pytest.raises(PlanError, match="no attention whose blocks"):
        sparsecc.compile(small.mlp("n"), attention="2x2x2", calibration=data)


def small_data(count: int = 8) -> list[dict[str, np.ndarray]]:
    chance = np.random.default_rng(0)
    shape = (1, planted.SMALL.tokens, 32)
    return [{"x": chance.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def test_attention_and_weights_share_a_limit(stock) -> None:
    """The drop of the plan is that of both together, against the dense model."""
    limit = 0.05
    plan = sparsecc.plan(
        planted.plain(),
        "x86-64-v4",
        attention=planted.SMALL.spec,
        calibration=small_data(),
        max_drop=limit,
        quality="relative-error",
        executor="serial",
    )
    assert any(not each.is_dense for each in plan.attention)
    assert plan.budget.limit == limit
    dense = next(point for point in plan.points if point.name == "dense")
    assert 0 < dense.drop <= limit / 2  # of attention alone
    made = sparsecc.apply(planted.plain(), plan, calibration=small_data(), executor="serial")
    data = small_data()[1::2]  # every other batch judges
    wanted = [stock(planted.plain(), **each) for each in data]
    drops = [
        float(np.square(made(**each) - one).sum() / np.square(one).sum())
        for each, one in zip(data, wanted, strict=True)
    ]
    assert plan.budget.drop == pytest.approx(np.mean(drops), rel=0.05)
    assert np.mean(drops) <= limit


def test_pruned_weights_learn_beside_attention_over_blocks() -> None:
    made = sparsecc.compile(
        planted.plain(),
        "x86-64-v4",
        attention=planted.SMALL.spec,
        sparsity="4x1:0.5",
        calibration=small_data(),
        permute=True,
        recover="3 steps",
        executor="serial",
    )
    assert made.plan.recovery.steps == 3
    assert any(not each.is_dense for each in made.plan.attention)


@pytest.mark.parametrize("backend", ["onnxruntime", "bundle"])
def test_a_plan_may_leave_a_whole_attention_out(backend: str) -> None:
    """No block is kept, and no head can be deleted because none would be left."""
    data = small_data()
    made = sparsecc.compile(
        planted.plain(),
        "x86-64-v4",
        attention=planted.SMALL.spec,
        calibration=data,
        executor="serial",
    )
    nothing = {"mode": "skip", "setting": 0, "keys": (), "density": 0.0}
    first, *others = made.plan.attention
    heads = tuple(head.model_copy(update=nothing) for head in first.heads)
    plan = made.plan.model_copy(
        update={"attention": (first.model_copy(update={"heads": heads}), *others)}
    )
    again = sparsecc.apply(
        planted.plain(), plan, calibration=data, executor="serial", backend=backend
    )
    assert again.report.numerics["max_rel_error"] < 1e-5
    assert again.quality["rel_error"] > made.quality["rel_error"]
