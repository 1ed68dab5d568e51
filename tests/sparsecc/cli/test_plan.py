"""``plan`` and ``apply``: a plan is written, read by people, edited and carried out."""

import json

import numpy as np
import pytest

from sparsecc.artifact import open_artifact


@pytest.fixture
def data(tmp_path):
    """Inputs that lie in few directions, so that there are weights to spare."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1280, 8)) @ rng.normal(size=(8, 64))
    path = tmp_path / "data.npz"
    np.savez(path, x=x.astype(np.float32))
    return path


@pytest.fixture
def plan(model, sparsecc, data, tmp_path):
    path = tmp_path / "plan.json"
    done = sparsecc("plan", model, "--calibration", data, "--max-drop", "0.05", "-o", path)
    assert done.code == 0, done.err
    assert "plans weighed" in done.out
    assert f"next: sparsecc apply {model} {path}" in done.out
    return path


def test_a_plan_is_carried_out(model, sparsecc, data, plan, tmp_path):
    out = tmp_path / "out"
    done = sparsecc("apply", model, plan, "--calibration", data, "-o", out, "--json")
    assert done.code == 0, done.err
    assert done.json.keys() >= {"artifact", "size_bytes", "quality", "report"}
    made = open_artifact(out).plan
    assert made["budget"] == json.loads(plan.read_text())["budget"]


def test_an_edited_plan_is_carried_out_and_a_spoilt_one_refused(
    model, sparsecc, data, plan, tmp_path
):
    written = json.loads(plan.read_text())
    written["layers"][0]["choice"] = {
        **written["layers"][0]["choice"],
        "pattern": "4x1",
        "sparsity": 0.5,
        "method": "sparsegpt",
    }
    plan.write_text(json.dumps(written))
    done = sparsecc("apply", model, plan, "--calibration", data, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert open_artifact(tmp_path / "out").plan["layers"][0]["density"] == pytest.approx(0.5)
    written["layers"][0]["choice"]["sparsity"] = 7
    plan.write_text(json.dumps(written))
    refused = sparsecc("apply", model, plan, "-o", tmp_path / "other")
    assert refused.code == 5
    assert "layers.0.choice.sparsity" in refused.err
    assert not (tmp_path / "other").exists()


def test_a_plan_that_counts_on_a_recovery(model, sparsecc, data, tmp_path):
    path = tmp_path / "plan.json"
    done = sparsecc(
        *("plan", model, "--calibration", data, "--max-drop", "0.05"),
        *("--recover", "3 steps", "-o", path),
    )
    assert done.code == 0, done.err
    assert "recovered" in done.out
    assert json.loads(path.read_text())["recovery"]["steps"] == 3


def test_compile_searches_too(model, sparsecc, data, tmp_path):
    out = tmp_path / "out"
    done = sparsecc(
        *("compile", model, "--calibration", data, "--max-drop", "0.05", "-o", out, "--json")
    )
    assert done.code == 0, done.err
    assert open_artifact(out).plan["spec"] == "search"


def test_a_budget_that_no_plan_meets_writes_nothing(model, sparsecc, data, tmp_path):
    path = tmp_path / "plan.json"
    asked = ("plan", model, "--calibration", data, "--max-bytes", "10", "-o", path)
    done = sparsecc(*asked)
    assert done.code == 5
    assert "no plan keeps to 10 bytes" in done.err
    assert not path.exists()
    assert sparsecc(*asked, "--best-effort", "--json").json["budget"]["met"] is False


def test_labels_of_a_bad_file_are_one_error(model, sparsecc, data, tmp_path):
    labels = tmp_path / "labels.npy"
    labels.write_text("not an array")
    done = sparsecc(
        *("plan", model, "--calibration", data, "--labels", labels, "--max-drop", "0.1"),
        *("-o", tmp_path / "plan.json"),
    )
    assert done.code == 4
    assert "not a readable .npy file" in done.err
