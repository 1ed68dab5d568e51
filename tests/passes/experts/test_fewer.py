"""Fewer experts against what a router over them means in double precision; planted cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc import ops, targets
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.errors import PlanError
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.experts.carry_out import carry_out
from sparsecc.passes.experts.find import find_mixtures
from sparsecc.passes.experts.merge import joined, matched, merged
from sparsecc.passes.experts.offers import weigh
from sparsecc.passes.experts.refit import refitted
from sparsecc.passes.experts.routing import Observed, Routed, observe
from sparsecc.quality.calibration import Calibration
from sparsecc.search.routing import PlanMixture
from tests.end_to_end import moe
from tests.sparsecc.ops.moe_cases import Case, drawn

TARGET = targets.read("x86-64-v4")


def model_of(case: Case, router: np.ndarray | None = None) -> ir.Model:
    """The experts of a case behind softmax and TopK."""
    proto = moe.with_router(case)
    if router is not None:
        held = next(each for each in proto.graph.initializer if each.name == "router")
        held.CopyFrom(onnx.numpy_helper.from_array(router.astype(np.float32), "router"))
    return canonical(proto)


def canonical(proto: onnx.ModelProto) -> ir.Model:
    model = ir.from_proto(proto)
    run(pipeline.EXACT_BEFORE, model, Context())
    return model


def tokens(count: int, features: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, features)).astype(np.float32)


def entry(places: list[int], chosen: list[int]) -> PlanMixture:
    kept = max(places) + 1
    loads = tuple(
        sum(c for c, place in zip(chosen, places, strict=True) if place == each)
        for each in range(kept)
    )
    return PlanMixture(
        name="moe",
        tokens=sum(chosen),
        chosen=tuple(chosen),
        gates=(0.5,) * len(chosen),
        places=tuple(places),
        loads=loads,
        predicted_ms=0.0,
        dense_ms=0.0,
    )


def meant(case: Case, x: np.ndarray, places: list[int], weights: dict[str, np.ndarray]) -> Any:
    """Softmax, the best of the experts that can be chosen, and those that stand for them."""
    scores = x.astype(np.float64) @ moe_router(case)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    open_ones = np.where(np.array(places) < 0, -np.inf, shares)
    k = case.arrays["experts"].shape[1]
    chosen = np.argsort(-open_ones, axis=1, kind="stable")[:, :k]
    gates = np.take_along_axis(shares, chosen, axis=1)
    exact = {name: weight.astype(np.float64) for name, weight in weights.items()}
    mixed = ops.mixture(
        case.activation, x.astype(np.float64), np.array(places)[chosen], gates, exact
    )
    return mixed + x


def moe_router(case: Case) -> np.ndarray:
    experts, features = case.arrays["up"].shape[::2]
    return np.random.default_rng(3).standard_normal((features, experts)).astype(np.float32)


@st.composite
def fewer(draw: st.DrawFn) -> tuple[Case, list[int]]:
    """Experts, and a place for each; as many stay as a token has, where some are gone."""
    experts = draw(st.integers(2, 7))
    places = draw(st.lists(st.integers(-1, experts - 1), min_size=experts, max_size=experts))
    if max(places) < 0:
        places[0] = 0
    numbers = {old: new for new, old in enumerate(dict.fromkeys(p for p in places if p >= 0))}
    left = sum(place >= 0 for place in places)
    case = drawn(
        tokens=1,
        experts=experts,
        chosen=draw(st.integers(1, left)),
        gated=draw(st.booleans()),
        bias=draw(st.booleans()),
        activation=draw(st.sampled_from(["relu", "silu", "gelu"])),
        seed=draw(st.integers(0, 99)),
    )
    return case, [numbers.get(place, -1) for place in places]


@settings(deadline=None, max_examples=40)
@given(fewer(), st.integers(0, 30))
def test_carried_out_equals_its_meaning(drawn_one: tuple[Case, list[int]], count: int) -> None:
    """Left out, merged, or both; also without a token, and with experts that nobody chooses."""
    case, places = drawn_one
    model, x = model_of(case), tokens(count, 8)
    chosen = list(range(len(places)))
    weights = find_mixtures(model)[0].weights
    left = merged(weights, places, chosen) if max(places) + 1 < len(places) else weights
    carry_out(model, [entry(places, chosen)])
    (made,) = session_of_model(model).run(None, {"x": x})
    wanted = meant(case, x, places, left)
    np.testing.assert_allclose(made, wanted, atol=2e-5 * max(1.0, np.abs(wanted).max(initial=0)))


def seen(model: ir.Model, x: np.ndarray) -> Observed:
    cut = len(x) // 2
    data = Calibration(train=({"x": x[:cut]},), held_out=({"x": x[cut:]},))
    return observe(model, data, lambda *_: None)[0]


@settings(deadline=None, max_examples=10)
@given(st.integers(2, 9), st.integers(1, 3), st.integers(2, 40))
def test_observed_is_what_the_router_does(experts: int, chosen: int, count: int) -> None:
    case = drawn(tokens=1, experts=experts, chosen=min(chosen, experts))
    x = tokens(count, 8)
    found = seen(model_of(case), x).traffic
    scores = x.astype(np.float64) @ moe_router(case)
    best = np.argsort(-scores, axis=1, kind="stable")[:, : min(chosen, experts)]
    hit = np.zeros((count, experts), np.int64)
    np.put_along_axis(hit, best, 1, axis=1)
    assert found.tokens == count
    assert (found.chosen == hit.sum(axis=0)).all()
    assert (found.together == hit.T @ hit).all()
    assert ((found.gates > 0) == (found.chosen > 0)).all()


def never(case: Case, dead: list[int]) -> np.ndarray:
    """A router that never chooses some experts for tokens whose first feature is 1."""
    router = moe_router(case)
    router[0, dead] = -1000
    return router


def test_dead_experts_are_left_out_without_loss() -> None:
    case = drawn(tokens=1, experts=8, chosen=2, gated=True, bias=True)
    x = tokens(400, 8)
    x[:, 0] = 1
    model = model_of(case, never(case, [1, 4, 6]))
    weighed = weigh(seen(model, x), [5], TARGET, refit=False)
    best = weighed.chosen(lambda _: True, "")
    assert best.loss == 0
    assert [e for e, place in enumerate(best.places) if place < 0] == [1, 4, 6]
    (before,) = session_of_model(model).run(None, {"x": x})
    carry_out(model, [best])
    (after,) = session_of_model(model).run(None, {"x": x})
    np.testing.assert_array_equal(after, before)
    assert find_mixtures(model)[0].count == 5


def test_experts_that_are_one_in_another_order_become_one() -> None:
    """Two copies of each expert, neurons permuted: half of them do, where leaving out loses."""
    case = drawn(tokens=1, experts=4, chosen=2, gated=True, bias=True)
    rng = np.random.default_rng(1)
    for name in [name for name in case.arrays if name not in ops.ROUTED]:
        case.arrays[name] = np.concatenate([case.arrays[name], case.arrays[name]])
    for e in range(4, 8):
        order = rng.permutation(case.arrays["up"].shape[1])
        for name in ("up", "gate", "up_bias", "gate_bias"):
            case.arrays[name][e] = case.arrays[name][e][order]
        case.arrays["down"][e] = case.arrays["down"][e][:, order]
    case.arrays["experts"] = np.zeros((1, 2), np.int64)
    x = tokens(300, 8)
    model = model_of(case)
    weighed = weigh(seen(model, x), [4], TARGET, refit=False)
    best = weighed.chosen(lambda _: True, "")
    assert best.places == (0, 1, 2, 3, 0, 1, 2, 3)
    assert best.loss < 1e-11
    assert next(each.said.loss for each in weighed.offers if each.said.means == "prune") > 0.01
    (before,) = session_of_model(model).run(None, {"x": x})
    carry_out(model, [best])
    (after,) = session_of_model(model).run(None, {"x": x})
    np.testing.assert_allclose(after, before, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 12), st.booleans(), st.integers(0, 99))
def test_matching_finds_a_permutation_of_neurons(hidden: int, gated: bool, seed: int) -> None:
    case = drawn(
        tokens=1, experts=1, chosen=1, hidden=hidden, gated=gated, bias=True, seed=seed
    ).feeds()
    own = {name: array[0] for name, array in case.items() if name not in ops.ROUTED}
    order = np.random.default_rng(seed).permutation(hidden)
    other = {
        name: array if name == "down_bias" else np.take(array, order, axis=int(name == "down"))
        for name, array in own.items()
    }
    for name, array in matched(other, own).items():
        np.testing.assert_array_equal(array, own[name])


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 8), st.integers(0, 99), st.data())
def test_groups_are_as_many_as_asked_for(experts: int, seed: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, experts))
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((experts, 3))
    apart = np.square(points[:, None] - points).sum(axis=2)
    places = joined(apart, rng.integers(0, 9, experts).tolist(), kept)
    assert list(dict.fromkeys(places)) == list(range(kept))


def test_an_expert_that_nobody_chose_costs_nothing_to_join() -> None:
    apart = np.array([[0.0, 9, 9], [9, 0, 8], [9, 8, 0]])
    assert joined(apart, [5, 5, 0], 2) == [0, 1, 1]
    assert joined(apart, [0, 5, 5], 2) in ([0, 0, 1], [0, 1, 0])


@settings(deadline=None, max_examples=25)
@given(fewer(), st.integers(0, 60))
def test_a_refit_is_never_further_from_what_all_experts_give(
    drawn_one: tuple[Case, list[int]], count: int
) -> None:
    """On the tokens that it is fitted to, few and many of them, none among them."""
    case, places = drawn_one
    rng, k = np.random.default_rng(count), case.arrays["experts"].shape[1]
    all_of_them = {n: a for n, a in case.feeds().items() if n not in ops.ROUTED}
    kept = merged(all_of_them, places, [1] * len(places))
    x = tokens(count, 8)
    gates = rng.random((count, k)).astype(np.float32)
    before = rng.integers(0, len(places), (count, k))
    wanted = ops.mixture(case.activation, x, before, gates, all_of_them)
    routed = Routed(x, rng.integers(0, max(places) + 1, (count, k)), gates)
    fitted = refitted(case.activation, routed, kept, wanted)
    plain, new = (
        np.linalg.norm(wanted - ops.mixture(case.activation, *routed, weights))
        for weights in (kept, fitted)
    )
    assert new <= plain * (1 + 1e-5) + 1e-5
    assert all((fitted[name] == kept[name]).all() for name in kept if name != "down")


def test_a_refit_finds_the_last_weights_of_a_mixture() -> None:
    """Experts whose last weights were spoilt: those they had are found again, about."""
    case = drawn(tokens=1, experts=3, chosen=1, hidden=6, gated=True)
    right = {n: a for n, a in case.feeds().items() if n not in ops.ROUTED}
    x, rng = tokens(600, 8), np.random.default_rng(0)
    routed = Routed(x, rng.integers(0, 3, (600, 1)), np.ones((600, 1), np.float32))
    wanted = ops.mixture(case.activation, *routed, right)
    noise = rng.standard_normal(right["down"].shape).astype(np.float32)
    spoilt = right | {"down": right["down"] + noise}
    found = refitted(case.activation, routed, spoilt, wanted)
    off, was = (np.linalg.norm(each["down"] - right["down"]) for each in (found, spoilt))
    assert off < 0.1 * was


@pytest.mark.parametrize(
    ("places", "says"),
    [([0, 1, 2], "3 experts, the model 6"), ([-1, -1, -1, -1, -1, 0], "1 experts, and a token")],
)
def test_a_plan_for_another_mixture_is_refused(places: list[int], says: str) -> None:
    model = canonical(moe.layer())
    with pytest.raises(PlanError, match=says):
        carry_out(model, [entry(places, [1] * len(places))])
    other = entry([0], [1]).model_copy(update={"name": "other"})
    with pytest.raises(PlanError, match="'other', the model has none"):
        carry_out(model, [other])
