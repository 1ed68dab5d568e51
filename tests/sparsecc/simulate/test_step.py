from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.errors import SimulationError
from sparsecc.simulate import Choice, costs, simulate
from sparsecc.simulate.cluster import Cluster
from sparsecc.simulate.layer import Pass
from sparsecc.simulate.model import flops_per_token, matrices
from sparsecc.simulate.step import PARTS, exposed
from tests.sparsecc.simulate.described import CLUSTER, cluster, model

EVEN = {"dense_layers": 0, "vocabulary": 1}
FREE = {"bandwidth": 1e24, "latency": 0.0}


def devices(count: int, **fields) -> Cluster:
    return cluster(nodes=1, devices_per_node=count, inside=FREE, between=FREE, **fields)


def test_on_one_device_a_step_is_the_sum_of_its_operators():
    one, device = model(layers=2, dense_layers=2, batch=3, dtype="float32"), cluster().device
    tokens = float(one.sequence)
    forward = backward = 0.0
    for matrix in matrices(one, "dense"):
        size = tokens, matrix.inputs, matrix.outputs
        forward += costs.product(device, one, *size)
        backward += costs.product_backward(device, one, *size)
    head = tokens, one.d, one.vocabulary
    ends = costs.product(device, one, *head) + costs.product_backward(device, one, *head)
    parts = simulate(one, devices(1), Choice()).parts
    assert parts["products"] == pytest.approx(3 * (2 * (forward + backward) + ends))
    attention = [costs.attention(device, one, 1, 8, backward=back) for back in (False, True)]
    assert parts["attention"] == pytest.approx(3 * 2 * sum(attention))
    assert set(parts) == {"products", "attention", "streaming", "optimizer"}


@given(st.sampled_from([2, 4, 8]), st.sampled_from([1, 2]), st.integers(1, 6))
def test_bubbles_are_of_all_other_stages_once(pipeline, virtual, rounds):
    one = model(layers=16, batch=pipeline * rounds, **EVEN)
    choice = Choice(pipeline=pipeline, virtual=virtual)
    parts = simulate(one, devices(pipeline), choice).parts
    worked = sum(parts.values()) - parts["bubble"] - parts["optimizer"]
    ideal = (pipeline - 1) / (virtual * pipeline * rounds)  # arXiv 2104.04473, section 2.2
    assert parts["bubble"] / worked == pytest.approx(ideal, rel=0.02)


@given(st.sampled_from([2, 4]), st.integers(1, 5))
def test_bubbles_shrink_with_micro_batches(pipeline, rounds):
    def share(batch):
        outcome = simulate(model(batch=batch, **EVEN), devices(pipeline), Choice(pipeline=pipeline))
        return outcome.parts["bubble"] / outcome.seconds

    assert share(2 * rounds) < share(rounds)


CHOICES = st.builds(
    Choice,
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.sampled_from([1, 2]),
    expert=st.sampled_from([1, 2, 4]),
    micro_batch=st.sampled_from([1, 2]),
    recompute=st.sampled_from(["none", "partial", "full"]),
    sharded=st.booleans(),
)
FASTER = [
    {"inside": {"bandwidth": 2e10, "latency": 1e-5}},
    {"between": {"bandwidth": 1e9, "latency": 1e-6}},
    {"device": CLUSTER["device"] | {"peak": {"bfloat16": 2e12}}},
    {"device": CLUSTER["device"] | {"bandwidth": 2e11}},
    {"overlap": {"expert": 0.5, "tensor": 1.0, "data": 0.3, "pipeline": 1.0}},
]


def allowed(one, where, choice):
    try:
        return simulate(one, where, choice)
    except SimulationError:
        return None


@given(CHOICES, st.sampled_from(FASTER))
def test_better_hardware_is_never_slower(choice, better):
    before, after = (allowed(model(), cluster(**each), choice) for each in ({}, better))
    assert (before is None) == (after is None)
    if before and after:
        assert after.seconds <= before.seconds * (1 + 1e-12)
        assert after.mfu <= 1


@given(CHOICES)
def test_parts_sum_up_to_the_step_and_the_rates(choice):
    outcome = allowed(model(), cluster(), choice)
    if outcome is None:
        return
    one = model()
    assert list(outcome.parts) == [name for name in PARTS if name in outcome.parts]
    assert all(part > 0 for part in outcome.parts.values())
    rate = one.batch * one.sequence / outcome.seconds
    assert outcome.tokens_per_s == pytest.approx(rate)
    assert outcome.mfu == pytest.approx(rate * flops_per_token(one) / (8 * 1e12))


@given(CHOICES)
def test_recomputing_costs_time(choice):
    times = [
        allowed(model(), cluster(), choice.model_copy(update={"recompute": how}))
        for how in ("none", "partial", "full")
    ]
    if all(times):
        assert times[0].seconds < times[1].seconds < times[2].seconds


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 10), st.floats(0, 1))
def test_what_is_hidden_has_something_to_hide_behind(compute, tensor, expert, share):
    one = Pass({"products": compute}, {"tensor": tensor, "expert": expert})
    parts = exposed(one, {"tensor": share, "expert": share})
    left = parts["tensor"] + parts["expert"]
    assert parts["products"] == compute
    ideal = max((tensor + expert) * (1 - share), tensor + expert - compute)
    assert left == pytest.approx(ideal)


@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.integers(1, 4))
def test_devices_that_share_cores_compute_no_faster_than_the_cores(pipeline, expert, rounds):
    count = pipeline * expert
    one = model(batch=expert * rounds, **EVEN)
    shared = devices(count, together=[[2, 2.0], [16, 2.0]])
    choice = Choice(pipeline=pipeline, expert=expert)
    apart = simulate(one, devices(count), choice)
    together = simulate(one, shared, choice)
    work = apart.seconds - apart.parts.get("bubble", 0.0) - apart.parts["optimizer"]
    least = work * count / min(2, count)
    assert together.seconds >= least * (1 - 1e-9)
    assert together.seconds >= apart.seconds * (1 - 1e-12)
    assert together.seconds <= apart.seconds * max(1, count / 2) * (1 + 1e-9)


def test_stages_that_wait_leave_their_core_to_others():
    one = model(batch=1, **EVEN)
    shared = devices(4, together=[[2, 2.0], [16, 2.0]])
    # One micro-batch: one stage works at a time, so that two cores are as good as four.
    outcome = simulate(one, shared, Choice(pipeline=4))
    assert "sharing" not in outcome.parts or outcome.parts["sharing"] < 1e-9


def test_a_choice_that_does_not_go_says_why():
    with pytest.raises(SimulationError, match="16 × 1 does not divide 8 devices"):
        simulate(model(), cluster(), Choice(tensor=16))
    with pytest.raises(SimulationError, match="no peak for float16, only for bfloat16, float32"):
        simulate(model(dtype="float16"), cluster(), Choice())


@pytest.mark.parametrize("degree", ["expert", "tensor"])
def test_what_is_sent_is_counted_where_devices_share_it(degree):
    alone = simulate(model(), cluster(), Choice()).parts
    shared = simulate(model(), cluster(), Choice(**{degree: 4})).parts
    assert degree not in alone
    assert shared[degree] > 0
    assert "expert" in shared  # experts are spread over tensor-parallel devices as well


def test_every_degree_changes_the_time():
    times = [
        simulate(model(top_k=4), cluster(), choice).seconds
        for choice in (
            Choice(),
            Choice(tensor=2),
            Choice(pipeline=2),
            Choice(expert=2),
            Choice(recompute="full"),
            Choice(expert=8, exchange="hierarchical"),
            Choice(expert=8),
            Choice(sharded=False),
        )
    ]
    assert all(a != b for a, b in itertools.combinations(times, 2))
