from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.simulate import collectives as net
from tests.sparsecc.simulate.described import cluster, model

TWO = cluster()
ALL = (net.all_gather, net.reduce_scatter, net.all_reduce, net.all_to_all)
GROUPS = [net.Group(1), net.Group(2), net.Group(4), net.Group(8, 2), net.Group(2, 2)]


def test_rings_and_pairs_inside_of_a_node():
    size, group, wait, rate = 4e6, net.Group(4), 1e-5, 1e10
    scattered = 3 * wait + 0.75 * size / rate
    assert net.all_gather(TWO, group, size) == pytest.approx(scattered)
    assert net.reduce_scatter(TWO, group, size) == pytest.approx(scattered)
    assert net.all_reduce(TWO, group, size) == pytest.approx(2 * scattered)
    assert net.all_to_all(TWO, group, size) == pytest.approx(scattered)


def test_all_to_all_uses_both_links_at_once():
    size, group = 8e6, net.Group(8, 2)
    between = 4 * 1e-5 + size / 8 * 4 / 1e9
    assert net.all_to_all(TWO, group, size) == pytest.approx(between)


def test_all_reduce_goes_inside_of_nodes_first_where_that_is_faster():
    size = 8e6
    flat = 14 * 1e-5 + 2 * 7 / 8 * size / 1e9
    inside = 2 * (3 * 1e-5 + 0.75 * size / 1e10)
    across = 2 * 1e-5 + 2 * 0.5 * size / 4 / 1e9
    assert net.all_reduce(TWO, net.Group(8, 2), size) == pytest.approx(inside + across)
    assert inside + across < flat


@given(st.floats(1, 1e9), st.sampled_from(GROUPS), st.sampled_from(ALL))
def test_more_bytes_take_longer_and_one_device_sends_nothing(size, group, collective):
    once, twice = collective(TWO, group, size), collective(TWO, group, 2 * size)
    assert once <= twice
    assert (once == 0) == (group.size == 1)


@given(st.floats(1, 1e9), st.sampled_from(ALL))
def test_a_faster_link_is_never_slower(size, collective):
    faster = cluster(between={"bandwidth": 1e10, "latency": 1e-6})
    group = net.Group(8, 2)
    assert collective(faster, group, size) <= collective(TWO, group, size)


def test_what_is_achieved_is_read_from_the_table():
    table = {"all_reduce": [[2, [[1e3, 0.5]]], [4, [[1e3, 0.25]]]]}
    slow = cluster(inside={"bandwidth": 1e10, "latency": 0.0, "achieved": table})
    for devices, share in ((2, 0.5), (4, 0.25)):
        ideal = 2 * (devices - 1) / devices * 1e6 / 1e10
        assert net.all_reduce(slow, net.Group(devices), 1e6) == pytest.approx(ideal / share)


def test_groups_are_in_as_many_nodes_as_they_reach():
    assert net.group(TWO, 4) == net.Group(4, 1)
    assert net.group(TWO, 8) == net.Group(8, 2)
    assert net.group(TWO, 2, spacing=4) == net.Group(2, 2)
    assert net.group(TWO, 2, spacing=2) == net.Group(2, 1)


@pytest.mark.parametrize(("top_k", "better"), [(8, True), (1, False)])
def test_gathering_between_nodes_pays_where_tokens_have_many_experts(top_k, better):
    free = {"bandwidth": 1e12, "latency": 0.0}
    where = cluster(inside=free, between={"bandwidth": 1e9, "latency": 0.0})
    members, one = net.Group(8, 2), model(top_k=top_k)

    def time(hierarchical):
        return net.expert_exchange(where, one, members, 1e4, 1.0, hierarchical=hierarchical)

    assert (time(True) < time(False)) == better
    token = one.d * one.item_bytes
    # Each of two nodes sends every token to the other once, or half of its copies.
    inside = 3 / 4 * 1e4 * top_k * token / 1e12
    assert time(True) == pytest.approx(1e4 * token / 1e9 + inside)
    assert time(False) == pytest.approx(1e4 * top_k * token / 2 / 1e9)
