"""``compile(keep_experts="0.75")``: mixtures that keep some of their experts, end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import sparsecc
from sparsecc.errors import CalibrationError, PlanError
from sparsecc.search.plan import Plan
from tests import small
from tests.end_to_end import moe

TARGET = "x86-64-v4"
DATA = {"x": moe.feeds(400)["x"]}


def compiled(keep_experts: str | None = "0.5", **more: Any) -> sparsecc.Compiled:
    settings: dict[str, Any] = {"calibration": DATA, "executor": "serial", **more}
    return sparsecc.compile(moe.layer(), TARGET, keep_experts=keep_experts, **settings)


def experts_in(made: sparsecc.Compiled) -> list[int]:
    """How many experts the mixtures of an artifact have."""
    model = onnx.load(made.path / "model.onnx")
    nodes = [*model.graph.node, *(node for each in model.functions for node in each.node)]
    attributes = [a for node in nodes if "MoE" in node.op_type for a in node.attribute]
    return [a.i for a in attributes if a.name == "experts_count"]


def test_half_of_the_experts() -> None:
    """It runs, is half as large, and the plan, its file and the artifact say the same."""
    whole, half = compiled(None), compiled()
    (entry,) = half.plan.mixtures
    assert (entry.kept, experts_in(half), experts_in(whole)) == (3, [3], [6])
    assert {each.means for each in entry.options} == {"prune", "merge"}
    assert (entry.loss, entry.refit) in {(each.loss, each.refit) for each in entry.options}
    assert sum(entry.chosen) == 2 * entry.tokens == 2 * 400
    assert "1 mixture with 3 of 6 experts" in str(half.report)
    assert Plan.from_json(half.plan.to_json()) == half.plan
    rows = {row.name: row for row in half.report.rows}
    assert rows["moe"].dense_ms == {row.name: row for row in whole.report.rows}["moe"].dense_ms
    size = {each: (each.path / "model.onnx").stat().st_size for each in (whole, half)}
    stored = 6 * 3 * moe.FEATURES * moe.HIDDEN * 4
    assert size[whole] - size[half] > 0.4 * stored


@pytest.mark.parametrize("refit", [True, False])
def test_a_plan_repeats_itself(refit: bool) -> None:
    """Without data too, where nothing is refitted; else it is what experts were before."""
    made = compiled(refit=refit)
    assert made.plan.mixtures[0].refit == refit
    model = (made.path / "model.onnx").read_bytes()
    for data in [DATA, None] if refit else [None]:
        again = sparsecc.apply(moe.layer(), made.plan, calibration=data, executor="serial")
        same = (again.path / "model.onnx").read_bytes() == model
        assert same == (data is not None or not refit)


def test_the_histogram_is_used_where_nothing_is_asked_for() -> None:
    made = compiled(None)
    (entry,) = made.plan.mixtures
    assert entry.is_whole
    assert entry.reason
    row = next(row for row in made.report.rows if row.name == "moe")
    assert f"the busiest for {max(entry.chosen) / 800:.0%} of all choices" in row.why


def test_a_search_keeps_to_the_drop() -> None:
    """The looser the limit, the fewer experts; with almost none all of them stay."""
    kept = []
    for limit in (1e-6, 0.05, 0.3):
        made = compiled("auto", max_drop=limit, sparsity="dense")
        assert made.plan.budget is not None
        assert made.plan.budget.met
        assert made.plan.budget.drop <= limit
        kept.append(made.plan.mixtures[0].kept)
    assert kept[0] == 6
    assert kept[0] >= kept[1] > kept[2]


def test_weights_are_pruned_within_what_experts_leave_of_a_drop() -> None:
    made = compiled("auto", max_drop=0.3)
    assert made.plan.budget is not None
    assert made.plan.budget.drop <= 0.3
    assert made.plan.mixtures[0].kept < 6


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ({"keep_experts": "some"}, PlanError, "no share of the experts"),
        ({"keep_experts": "0"}, PlanError, "no share of the experts"),
        ({"keep_experts": "nan"}, PlanError, "no share of the experts"),
        ({"keep_experts": "auto"}, PlanError, "within a drop of quality"),
        ({"keep_experts": "auto", "max_ms": 1.0}, PlanError, "within a drop of quality"),
        ({"calibration": None}, CalibrationError, "there are none"),
        (
            {"keep_experts": "auto", "max_drop": 0.1, "experts": "auto"},
            PlanError,
            "at a time|does not decide",
        ),
    ],
)
def test_what_cannot_be_asked_for(more: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        compiled(**{"keep_experts": "0.5", **more})
    assert caught.value.fix  # type: ignore[attr-defined]


def test_a_model_without_mixtures() -> None:
    data = {"x": small.tokens(0)}
    with pytest.raises(PlanError, match="no mixture of experts"):
        sparsecc.compile(small.mlp("n"), TARGET, keep_experts="0.5", calibration=data)


@pytest.mark.parametrize(
    "change",
    [
        {"places": [0, 2, 1, 1, 1, 1]},
        {"places": [-1] * 6},
        {"places": [0, 1, 2]},
        {"loads": [1]},
        {"chosen": [-1] * 6},
        {"gates": [0.5] * 5},
        {"more": 1},
    ],
)
def test_a_plan_that_says_nothing_sensible(change: dict[str, Any], tmp_path: Path) -> None:
    data = json.loads(compiled().plan.to_json())
    data["mixtures"][0] |= change
    with pytest.raises(PlanError):
        Plan.from_json(json.dumps(data))


def test_merged_experts_of_a_gated_mixture_compute_what_the_plan_says() -> None:
    """An edited plan that merges all: one expert, the mean, whatever is chosen."""
    data = json.loads(compiled(None).plan.to_json())
    data["mixtures"][0] |= {"places": [0] * 6, "loads": [800]}
    made = sparsecc.apply(moe.layer(), Plan.from_json(json.dumps(data)), executor="serial")
    assert experts_in(made) == [1]
    assert made.manifest.numerics["max_rel_error"] < 1e-5
    assert np.isfinite(made(x=DATA["x"][:7])).all()
