from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.errors import PlanError
from sparsecc.formats.patterns import DENSE, Detected, Pattern, SparsitySpec
from sparsecc.search.allocation import allocate, erk, owl, scaled, to_spread

SPEC = SparsitySpec.parse("4x1:0.75")


@dataclasses.dataclass(frozen=True)
class Shape:
    name: str
    rows: int = 64
    cols: int = 64
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    keep_dense: str = ""


def test_uniform_gives_every_layer_the_request() -> None:
    decisions = allocate([Shape("a"), Shape("b", rows=512)], SPEC)
    assert [str(d.choice.pattern) for d in decisions.values()] == ["4x1", "4x1"]
    assert [d.choice.sparsity for d in decisions.values()] == [0.75, 0.75]


def test_default_dense_layers_stay_dense_with_their_reason_unless_named() -> None:
    layers = [Shape("stem", keep_dense="first layer"), Shape("body")]
    decisions = allocate(layers, SPEC)
    assert decisions["stem"].choice.pattern == DENSE
    assert decisions["stem"].reason == "first layer"
    named = allocate(layers, SPEC, overrides={"st*": SparsitySpec.parse("2:4")})
    assert str(named["stem"].choice.pattern) == "2:4"
    assert named["stem"].reason == ""


def test_first_matching_override_wins() -> None:
    overrides = {"a.1": SparsitySpec.parse("dense"), "a.*": SparsitySpec.parse("1x4:0.5")}
    decisions = allocate([Shape("a.0"), Shape("a.1"), Shape("b")], SPEC, overrides=overrides)
    assert [str(d.choice.pattern) for d in decisions.values()] == ["1x4", "dense", "4x1"]


def test_override_without_a_layer_is_an_error_that_lists_layers() -> None:
    with pytest.raises(PlanError, match="typo") as caught:
        allocate([Shape("conv1")], SPEC, overrides={"typo*": SPEC})
    assert "conv1" in str(caught.value)


def test_blocks_that_would_straddle_groups_leave_the_layer_dense() -> None:
    layers = [Shape("g", rows=36, groups=6), Shape("h", rows=48, groups=6)]
    decisions = allocate(layers, SPEC)
    assert decisions["g"].choice.pattern == DENSE
    assert "6 rows per group" in decisions["g"].reason
    assert str(decisions["h"].choice.pattern) == "4x1"


def test_existing_uses_the_zeros_found_also_in_default_dense_layers() -> None:
    layers = [Shape("stem", keep_dense="first layer"), Shape("body")]
    detected = {
        "stem": Detected(Pattern.parse("8x1"), 0.25, 0.25),
        "body": Detected(DENSE, 1.0, 1.0),
    }
    decisions = allocate(layers, SparsitySpec.parse("existing"), detected=detected)
    assert str(decisions["stem"].choice.pattern) == "8x1"
    assert decisions["stem"].choice.sparsity == 0.75
    assert decisions["stem"].choice.method == "existing"
    assert decisions["body"].reason == "no zeros to use"


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.lists(
        st.tuples(st.integers(16, 512), st.integers(1, 512), st.sampled_from([1, 3, 5])),
        min_size=1,
        max_size=8,
    ),
    st.floats(0.02, 0.98),
)
def test_erk_meets_the_budget_and_never_exceeds_one(
    sizes: list[tuple[int, int, int]], density: float
) -> None:
    layers = [Shape(str(i), r, c * k * k, 1, (k, k)) for i, (r, c, k) in enumerate(sizes)]
    densities = np.array(erk(layers, density))
    counts = np.array([layer.rows * layer.cols for layer in layers])
    assert np.all((densities > 0) & (densities <= 1 + 1e-12))
    assert np.sum(densities * counts) == pytest.approx(density * counts.sum())


def test_erk_unclipped_densities_follow_the_formula() -> None:
    layers = [Shape("a", 256, 128 * 9, 1, (3, 3)), Shape("b", 512, 256)]
    a, b = erk(layers, 0.1)
    raw_a = (128 + 256 + 6) / (128 * 256 * 9)
    raw_b = (256 + 512 + 2) / (256 * 512)
    assert a / b == pytest.approx(raw_a / raw_b)


def test_what_is_spread_is_pruned_layers_of_no_fixed_sparsity() -> None:
    layers = [Shape("stem", keep_dense="first"), Shape("a"), Shape("b"), Shape("g", 36, groups=6)]
    named = {"b": SparsitySpec.parse("dense")}
    assert [layer.name for layer in to_spread(layers, SPEC, named)] == ["a"]
    for fixed in ("2:4", "dense", "existing"):
        assert to_spread(layers, SparsitySpec.parse(fixed)) == []
    with pytest.raises(PlanError, match="typo"):
        to_spread(layers, SPEC, {"typo*": SPEC})


def test_given_densities_go_to_the_layers_they_name() -> None:
    layers = [Shape("stem", keep_dense="first"), Shape("a"), Shape("b")]
    decisions = allocate(layers, SPEC, densities={"a": 0.5})
    assert [d.choice.sparsity for d in decisions.values()] == [0.0, 0.5, 0.75]


def test_owl_keeps_more_where_outliers_are() -> None:
    assert owl([0.0, 1.0, 0.5], [1, 1, 1], 0.5) == pytest.approx([0.42, 0.58, 0.5])
    # by hand: z = 0, .16, .08; its mean by weights is (2·.16 + .08) / 4 = .1
    assert owl([0.0, 1.0, 0.5], [1, 2, 1], 0.5) == pytest.approx([0.4, 0.56, 0.48])
    assert owl([0.2, 0.2], [3, 4], 0.3) == [0.3, 0.3]
    assert owl([], [], 0.3) == []


OUTLIERS = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 10_000)), min_size=1, max_size=20)


@given(OUTLIERS, st.floats(0.01, 0.99))
def test_owl_keeps_its_mean_and_its_bounds(layers: list[tuple[float, int]], density: float) -> None:
    shares, sizes = zip(*layers, strict=True)
    kept = np.array(owl(shares, sizes, density))
    assert np.average(kept, weights=sizes) == pytest.approx(density)
    assert np.all((kept > 0) & (kept <= 1 + 1e-12))
    if 0.22 <= density <= 0.84:  # nothing is clipped: an outlier share orders the densities
        assert np.ptp(kept) <= 0.16 + 1e-12
        assert np.all(np.diff(kept[np.argsort(shares)]) >= -1e-12)


@given(OUTLIERS, st.floats(0.01, 0.99))
def test_scaled_shares_meet_the_total(layers: list[tuple[float, int]], density: float) -> None:
    shares, sizes = zip(*[(share + 1e-3, size) for share, size in layers], strict=True)
    kept = np.array(scaled(shares, sizes, density))
    assert np.average(kept, weights=sizes) == pytest.approx(density)
    below = kept < 1
    ratios = kept[below] / np.array(shares)[below]
    assert np.allclose(ratios, ratios[:1])
    assert np.all(kept <= 1)
