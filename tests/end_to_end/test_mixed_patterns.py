"""One model, a pattern of its own for every layer: compiled, checked, and made again."""

from __future__ import annotations

import pytest

import sparsecc
from sparsecc.formats.patterns import SparsitySpec
from sparsecc.measure import TOLERANCE
from sparsecc.report.rows import DENSE_KERNEL
from tests import small

MIXED = {
    "block7.pointwise": "4x1:0.8",
    "block8.pointwise": "16x1:0.8",
    "block9.pointwise": "unstructured:0.8",
    "block10.pointwise": "2:4",
    "block11.pointwise": "1x4:0.8",
    "block12.pointwise": "1:4",
    "block6.pointwise": "dense",
}


@pytest.fixture(scope="module")
def mixed() -> sparsecc.Compiled:
    return sparsecc.compile(
        small.mobilenet(),
        sparsity="8x1:0.7",
        overrides=MIXED,
        calibration=[{"image": small.image(seed)} for seed in range(5)],
        executor="serial",
        verify=True,
    )


def test_every_layer_gets_its_pattern_and_the_twin_agrees(mixed: sparsecc.Compiled) -> None:
    assert mixed.manifest.numerics["max_rel_error"] < TOLERANCE
    rows = {row["name"]: row for row in mixed.report.to_json()["layers"]}
    for name, text in MIXED.items():
        spec = SparsitySpec.parse(text)
        assert rows[name]["pattern"] == str(spec.pattern)
        assert rows[name]["density"] == pytest.approx(1 - spec.sparsity, abs=0.01)
        assert rows[name]["kernel"] != DENSE_KERNEL or rows[name]["why"]
    assert rows["block5.pointwise"]["pattern"] == "8x1"


def test_patterns_with_kernels_run_in_them_or_say_what_they_cost(mixed: sparsecc.Compiled) -> None:
    rows = {row["name"]: row for row in mixed.report.to_json()["layers"]}
    kernels = {name: rows[name]["kernel"] for name in MIXED}
    for name in ("block7.pointwise", "block8.pointwise", "block9.pointwise"):
        assert kernels[name].startswith("conv-"), (name, rows[name]["why"])
    for name in ("block10.pointwise", "block11.pointwise", "block12.pointwise"):
        ran = kernels[name] != DENSE_KERNEL
        assert ran or "would not pay" in rows[name]["why"], rows[name]
    assert rows["block6.pointwise"]["why"]


def test_the_plan_of_it_makes_the_same_again(mixed: sparsecc.Compiled) -> None:
    again = sparsecc.apply(
        small.mobilenet(),
        mixed.plan,
        calibration=[{"image": small.image(seed)} for seed in range(5)],
        executor="serial",
    )
    assert [each.choice for each in again.plan.layers] == [e.choice for e in mixed.plan.layers]
    x = small.image(9)
    assert (again(x) == mixed(x)).all()


def test_patterns_of_groups_in_a_better_order_of_channels() -> None:
    """2:4 and 1x4 look at inputs side by side; both gain where the order of channels is free."""
    settings = {
        "sparsity": "2:4",
        "overrides": {"fc2": "1x4:0.5", "head": "dense"},
        "score": "magnitude",
        "refit": False,
    }
    made = {
        permute: sparsecc.compile(
            small.mlp("n"), calibration={"x": small.tokens(0, 96)}, permute=permute, **settings
        )
        for permute in (False, True)
    }
    for each in made.values():
        assert each.manifest.numerics["max_rel_error"] < TOLERANCE
        patterns = [str(row.pattern) for row in each.report.rows]
        assert patterns[:2] == ["2:4", "1x4"]
        assert [row.density for row in each.report.rows] == [0.5, 0.5, 1.0]
    losses = {permute: [layer.loss for layer in each.plan.layers] for permute, each in made.items()}
    assert losses[True][1] < losses[False][1]
    again = sparsecc.apply(small.mlp("n"), made[True].plan, calibration={"x": small.tokens(0, 96)})
    files = [each.manifest.files["model.onnx"].sha256 for each in (made[True], again)]
    assert files[0] == files[1]
