"""The data of a written report, of a real artifact and of one with a search behind it."""

import dataclasses
import json

import pytest

from sparsecc import targets
from sparsecc.report import Report
from sparsecc.report.document import document
from sparsecc.report.write import to_json
from tests.sparsecc.report.searched import LIMIT, PATTERNS, SPARSITIES, searched


@pytest.fixture(scope="module")
def report(pruned_mlp) -> Report:
    return dataclasses.replace(pruned_mlp.report, title="mlp")


def test_every_layer_with_what_plan_and_regions_add(report):
    made = document(report)
    assert [layer.row.name for layer in made.layers] == ["fc1", "fc2", "head"]
    assert [layer.kind for layer in made.layers] == ["sparse", "sparse", "library"]
    assert [layer.choice for layer in made.layers] == ["4x1:0.8", "4x1:0.8", "dense"]
    assert {layer.region for layer in made.layers} == {"Region0"}
    assert sum(layer.share for layer in made.layers) == pytest.approx(1)
    assert made.count("sparse") == 2
    assert made.measured is None


def test_work_is_that_of_the_stored_weights(report):
    fc1, _, head = (layer.row for layer in document(report).layers)
    stored = round(fc1.density * 256 * 256)
    tokens, activations = 32, 4 * 32 * (256 + 256)
    assert fc1.flops == 2 * stored * tokens
    assert fc1.moved_bytes == activations + 4 * stored + stored  # an index for four weights
    assert head.flops == 2 * 256 * 10 * tokens
    assert head.moved_bytes == 4 * (32 * (256 + 10) + 256 * 10)


def test_the_graph_before_and_after(report):
    made = document(report)
    before = {node.name: node.kind for node in made.before}
    assert before == {
        "fc1": "sparse",
        "fc1.act": "gone",
        "fc2": "sparse",
        "fc2.act": "gone",
        "head": "library",
    }
    assert [(node.name, node.kind, node.region) for node in made.after] == [
        ("fc1", "sparse", "Region0"),
        ("fc2", "sparse", "Region0"),
        ("head", "library", "Region0"),
    ]
    assert made.dense_bytes == 4 * (256 * 256 * 2 + 2560 + 256 * 2 + 10)


def test_a_layer_that_is_a_step_of_a_region_is_run_by_the_library(report):
    rows = [dataclasses.replace(report.rows[2], kernel="onnxruntime")]
    inside = document(dataclasses.replace(report, rows=rows)).layers[0]
    assert (inside.kind, inside.kernel) == ("library", "step of a region")
    outside = document(dataclasses.replace(report, rows=rows, manifest=None)).layers[0]
    assert (outside.kind, outside.kernel) == ("dense", "onnxruntime")


def test_an_inspection_has_neither_plan_nor_graph(report):
    made = document(Report(report.rows, "x86-64-v4"))
    assert (made.before, made.after, made.points, made.budget) == ((), (), (), None)
    assert made.size_bytes is None
    assert made.layers[0].choice == ""


def test_an_unknown_target_is_no_mistake(report):
    unsaid = report.manifest.model_copy(update={"hardware": {}})
    made = document(dataclasses.replace(report, target="a machine of yours", manifest=unsaid))
    assert made.target is None
    assert made.target_name == "a machine of yours"


def test_a_search_brings_options_points_and_a_budget(report):
    made = document(searched(report))
    for layer in made.layers:
        assert len(layer.options) == 1 + len(PATTERNS) * len(SPARSITIES)
        assert sum(option.chosen for option in layer.options) == 1
        assert all(bool(option.why_not) != option.chosen for option in layer.options)
    assert made.budget.limit == LIMIT
    assert sum(point.chosen for point in made.points) == 1


def test_json_is_plain_stable_and_finite(report):
    made = document(searched(report))
    text = to_json(made)
    assert text == to_json(document(searched(report)))
    data = json.loads(text)
    assert data["layers"][0].keys() >= {"name", "est_ms", "share", "loss", "options", "kind"}
    assert data["budget"]["metric"] == "top-1 agreement"
    assert data["graph"]["after"][0]["region"] == "Region0"
    assert "report.html" not in data["files"]
    broken = dataclasses.replace(made, quality={"cosine": float("nan")})
    assert json.loads(to_json(broken))["quality"] == {"cosine": None}


def test_a_target_of_the_users_own_has_its_roofline_drawn(report):
    mine = dataclasses.replace(targets.get("x86-64-v4"), name="mine")
    manifest = report.manifest.model_copy(
        update={"target": "mine", "hardware": json.loads(mine.to_json())}
    )
    assert document(dataclasses.replace(report, target="mine", manifest=manifest)).target == mine
