from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsecc.errors import PlanError
from sparsecc.formats.patterns import Pattern
from sparsecc.search.plan import (
    MAX_BYTES,
    Choice,
    Plan,
    PlanBudget,
    PlanLayer,
    PlanOption,
    PlanPoint,
    PlanRefusal,
)


def a_plan() -> Plan:
    choice = Choice(pattern=Pattern.parse("4x1"), sparsity=0.8)
    layer = PlanLayer(
        name="conv",
        op="Conv",
        rows=64,
        cols=576,
        choice=choice,
        density=0.2000001234,
        loss=1.23456789e-3,
        predicted_ms=0.1,
        dense_ms=0.4,
        kernel="spmm-4x1",
        reason="4× less work",
        spread=0.05,
        options=(
            PlanOption(choice=choice, density=0.2, loss=1e-3, predicted_ms=0.1, weight_bytes=37000),
        ),
    )
    refusal = PlanRefusal(pass_name="weight-sparsity", node="lstm", reason="recurrent")
    return Plan(
        sparsecc="0.1.0",
        model_hash="00ff",
        target="x86-64-v3",
        spec="4x1:0.8",
        overrides={"head*": "dense"},
        mode="fast",
        budget=PlanBudget(kind="drop", limit=0.01, metric="top-1", drop=0.008, met=True),
        points=(PlanPoint(name="searched 1", predicted_ms=0.1, drop=0.008, chosen=True),),
        layers=(layer,),
        refusals=(refusal,),
    )


def test_round_trip_keeps_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    a_plan().save(path)
    loaded = Plan.load(path)
    assert loaded.to_json() == path.read_text(encoding="utf-8") == a_plan().to_json()
    assert loaded.layers[0].choice == a_plan().layers[0].choice


def test_floats_are_written_with_six_digits() -> None:
    layer = json.loads(a_plan().to_json())["layers"][0]
    assert layer["density"] == 0.2
    assert layer["loss"] == 0.00123457
    assert layer["choice"] == {
        "pattern": "4x1",
        "sparsity": 0.8,
        "method": "sparsegpt",
        "refit": True,
        "structure": "",
    }


def edited(**changes: Any) -> str:
    raw = json.loads(a_plan().to_json())
    layer = changes.pop("layer", {})
    raw["layers"][0].update(layer)
    raw.update(changes)
    return json.dumps(raw)


FACTORS = {"pattern": "dense", "sparsity": 0.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "plan format None"),
        (edited(format=4), "plan format 4"),
        (edited(format=True), "plan format True"),
        (edited(format="1"), "plan format '1'"),
        (edited(surprise=1), "surprise"),
        (edited(target=7), "target"),
        (edited(layer={"rows": 0}), "layers.0.rows"),
        (edited(layer={"rows": "64"}), "layers.0.rows"),
        (edited(layer={"density": 1.5}), "layers.0.density"),
        (edited(layer={"loss": float("nan")}), "layers.0.loss"),
        (edited(layer={"name": "x" * 5000}), "layers.0.name"),
        (edited(layer={"choice": {"pattern": "5x5", "sparsity": 0.5}}), "5x5"),
        (edited(layer={"choice": {"pattern": "4x1", "sparsity": 2.0}}), "sparsity"),
        (edited(layer={"choice": {"pattern": "4x1", "sparsity": 0.5, "method": "x"}}), "method"),
        (edited(layer={"choice": {**FACTORS, "structure": "rank:0"}}), "no structure"),
        (edited(layer={"choice": {**FACTORS, "structure": 7}}), "structure"),
        (edited(layer={"choice": {**FACTORS, "structure": "rank:1" + 50 * " "}}), "structure"),
    ],
)
def test_anything_else_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.from_json(text)
    assert message in str(caught.value)
    assert caught.value.fix


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"missing\.json"):
        Plan.load(tmp_path / "missing.json")
    with pytest.raises(PlanError, match="cannot write"):
        a_plan().save(tmp_path / "no" / "such" / "plan.json")
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(PlanError, match="larger than"):
        Plan.load(large)
