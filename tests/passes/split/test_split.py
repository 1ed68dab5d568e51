"""Feed-forward networks found, their neurons grouped, and routers that find the groups again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc import ops
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.split.find import FeedForward, feed_forwards
from sparsecc.passes.split.group import balanced, group
from sparsecc.passes.split.plan import carry_out
from sparsecc.passes.split.router import brought, train
from sparsecc.passes.split.weigh import Split, losses_of, sample
from sparsecc.passes.split.write import write
from sparsecc.search.mixtures import PlanExperts
from tests.passes.split.planted import Planted

NORMAL = Planted()


def canonical(planted: Planted) -> ir.Model:
    model = ir.from_proto(planted.model())
    run(pipeline.EXACT_BEFORE, model, Context(verify=True))
    return model


def only(planted: Planted) -> FeedForward:
    (found,) = feed_forwards(canonical(planted))
    return found


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("gemm", [False, True])
@pytest.mark.parametrize("activation", ["Relu", "Gelu", "HardSwish"])
def test_a_network_is_found_with_its_weights(gated: bool, gemm: bool, activation: str) -> None:
    planted = Planted(gated=gated, gemm=gemm, activation=activation, size=8)
    found, wanted = only(planted), planted.weights()
    assert found.name == "up"
    assert found.activation == activation.lower()
    assert (found.gate is not None) == gated
    for name, array in found.weights().items():
        if name != "down_bias" or gemm:
            np.testing.assert_allclose(array, wanted[name], err_msg=name)


@pytest.mark.parametrize("op", ["Tanh", "Sign"])
def test_what_is_activated_otherwise_is_none(op: str) -> None:
    assert feed_forwards(canonical(NORMAL.variant(activation=op))) == []


def test_a_network_whose_hidden_features_are_an_output_is_none() -> None:
    proto = NORMAL.model()
    proto.graph.output.append(type(proto.graph.output[0])(name="hidden"))
    model = ir.from_proto(proto)
    run([*pipeline.EXACT_BEFORE], model, Context())
    assert feed_forwards(model) == []


@settings(deadline=None, max_examples=25)
@given(
    clusters=st.integers(1, 9),
    size=st.integers(1, 7),
    features=st.integers(1, 6),
    seed=st.integers(0, 99),
    alike=st.booleans(),
)
def test_clusters_are_of_one_size_and_hold_every_point_once(
    clusters: int, size: int, features: int, seed: int, alike: bool
) -> None:
    rng = np.random.default_rng(seed)
    shape = (1 if alike else clusters * size, features)
    points = np.broadcast_to(rng.standard_normal(shape), (clusters * size, features))
    groups = balanced(points.astype(np.float32), clusters, rng)
    assert groups.shape == (clusters, size)
    assert sorted(groups.ravel().tolist()) == list(range(clusters * size))


def errors(kind: str) -> float:
    """NMSE of one expert a token, on tokens that nothing was trained on."""
    found, rng = only(NORMAL), np.random.default_rng(0)
    here = sample(found, [NORMAL.tokens(4096)], 4096, rng)
    judged = sample(found, [NORMAL.tokens(512, seed=1)], 512, rng)
    up = found.weights()["up"]
    if kind == "random":
        groups = rng.permutation(found.neurons).reshape(NORMAL.clusters, -1)
    else:
        groups = group(kind, NORMAL.clusters, up, here.active > 0, rng)  # type: ignore[arg-type]
    wanted = brought(here.hidden, groups, found.weights()["down"])
    router = train(here.x, wanted, up, groups, rng)
    return losses_of(found, Split(groups, router), judged, [1])[1]


def test_planted_clusters_are_recovered() -> None:
    """One expert of 16 is then nearly all; of experts that are drawn at random it is nothing."""
    assert errors("weights") <= 0.05
    assert errors("activations") <= 0.05
    assert errors("random") >= 0.7


def masked(found: FeedForward, made: Split, x: np.ndarray, count: int) -> np.ndarray:
    """What the network makes of tokens where other experts' neurons are zero, in float64."""
    weights = {name: array.astype(np.float64) for name, array in found.weights().items()}
    x = x.astype(np.float64)
    hidden = np.maximum(x @ weights["up"].T + weights["up_bias"], 0)
    if found.gate is not None:
        hidden = hidden * (x @ weights["gate"].T + weights["gate_bias"])
    kept = np.zeros(hidden.shape, bool)
    for token, experts in enumerate(made.router.chosen(x.astype(np.float32), count)):
        kept[token, made.groups[experts].ravel()] = True
    result: np.ndarray = np.where(kept, hidden, 0) @ weights["down"].T + weights["down_bias"]
    return result


def any_split(found: FeedForward, experts: int, x: np.ndarray, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    groups = rng.permutation(found.neurons).reshape(experts, -1)
    weights = found.weights()
    wanted = brought(sample(found, [x], len(x), rng).hidden, groups, weights["down"])
    return Split(groups, train(x, wanted, weights["up"], groups, rng))


@settings(deadline=None, max_examples=20)
@given(chosen=st.integers(1, 6), gated=st.booleans(), seed=st.integers(0, 9))
def test_what_is_said_to_be_lost_is_what_the_experts_leave_out(
    chosen: int, gated: bool, seed: int
) -> None:
    planted = Planted(clusters=6, size=4, features=12, gated=gated, noise=2.0)
    found, x = only(planted), planted.tokens(40, seed)
    made = any_split(found, 6, x, seed)
    whole, ours = (masked(found, made, x, count) - found.down.bias for count in (6, chosen))
    wanted = np.square(whole - ours).sum() / np.square(whole).sum()
    judged = sample(found, [x], 40, np.random.default_rng(0))
    got = losses_of(found, made, judged, [chosen])[chosen]
    assert got == pytest.approx(wanted, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("chosen", [1, 3, 6])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("gemm", [False, True])
def test_written_experts_are_the_masked_network(chosen: int, gated: bool, gemm: bool) -> None:
    """With all of them chosen that is the network itself."""
    planted = Planted(clusters=6, size=4, features=12, gated=gated, gemm=gemm, noise=2.0)
    model = canonical(planted)
    (found,) = feed_forwards(model)
    x = planted.tokens(24 * 5, seed=3)
    made = any_split(found, 6, x, 0)
    wanted = x + masked(found, made, x, chosen) + (0 if gemm else planted.weights()["down_bias"])
    entry = PlanExperts(
        name=found.name,
        neurons=24,
        experts=6,
        chosen=chosen,
        density=0.1,
        predicted_ms=1,
        dense_ms=1,
    )
    if chosen < 6:
        carry_out(model, [entry], {found.name: made})
    else:
        write(found, made, chosen)
        ops.attach_functions(model)
        run([DeadCode()], model, Context())
    feed = {"x": x if gemm else x.reshape(5, 24, 12)}
    (got,) = session_of_model(model).run(None, feed)
    np.testing.assert_allclose(got.reshape(-1, 12), wanted, atol=1e-5)


def test_a_token_of_zeros_is_routed_too() -> None:
    found = only(Planted(clusters=6, size=4, features=12))
    x = np.zeros((3, 12), np.float32)
    assert any_split(found, 6, x, 0).router.chosen(x, 2).shape == (3, 2)
