"""Recalls against a softmax written out in float64; blocks found online; the state of a model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc import ops
from sparsecc.capture import capture
from sparsecc.passes import pipeline
from sparsecc.passes.attention.losses import block_mass
from sparsecc.passes.attention.modes import Grid, Pattern, multi_diagonal
from sparsecc.passes.attention.online import (
    SEARCH,
    as_online,
    density,
    expose,
    found_blocks,
    recall,
    recalls,
    search_online,
    time_share,
    words_of,
)
from sparsecc.passes.attention.plan import as_ops, asked_for, keeping, unsearched
from sparsecc.passes.attention.search import outputs
from sparsecc.passes.base import Context, run
from sparsecc.search.attentions import PlanOnline
from sparsecc.targets import read
from tests.passes.attention import moving
from tests.passes.attention.test_losses import softmax, spread

TARGET = read("x86-64-v3")
CASES = {
    "tokens": st.integers(1, 40),
    "dim": st.integers(1, 5),
    "block": st.integers(1, 17),
    "scale": st.sampled_from([0.1, 1.0, 9.0]),
    "seed": st.integers(0, 9),
}


def drawn(tokens, dim, seed):
    return np.random.default_rng(seed).standard_normal((2, tokens, dim)).astype(np.float32)


def whole(q, k, scale):
    return softmax(q, k, scale, np.ones((len(q), len(k)), bool))


@given(**CASES)
def test_the_mass_of_blocks_is_that_of_their_softmax(tokens, dim, block, scale, seed):
    q, k = drawn(tokens, dim, seed)
    mass = block_mass(q, k, scale, block)
    starts = np.arange(0, tokens, block)
    wanted = np.add.reduceat(np.add.reduceat(whole(q, k, scale), starts, 0), starts, 1)
    np.testing.assert_allclose(mass, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mass.sum(1), np.diff([*starts, tokens]), rtol=1e-5)


@given(**CASES)
def test_a_recall_is_the_share_of_the_softmax_that_is_kept(tokens, dim, block, scale, seed):
    q, k = drawn(tokens, dim, seed)
    blocks = -(-tokens // block)
    kept = np.random.default_rng(seed).random((blocks, blocks)) < 0.5
    got = recall(q, k, scale, Pattern("diagonal", block, kept))
    wanted = float((whole(q, k, scale) * spread(kept, tokens, block)).sum()) / tokens
    assert got == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_a_recall_is_of_the_order_that_a_pattern_wants():
    """Of the multi-diagonal mode."""
    grid = Grid(4, 4, 4)
    pattern = multi_diagonal(grid, 8, 1)
    q, k = drawn(grid.tokens, 4, 0)
    seen = np.empty((grid.tokens, grid.tokens), bool)
    seen[np.ix_(pattern.order, pattern.order)] = spread(pattern.kept, grid.tokens, 8)
    wanted = float((whole(q, k, 1.0) * seen).sum()) / grid.tokens
    assert recall(q, k, 1.0, pattern) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    "grid", [Grid(8, 16, 16, 5), Grid(8, 16, 16, 70, text_first=False)], ids=str
)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.8])
def test_the_density_that_is_expected_is_that_of_found_blocks(grid, sparsity):
    chance = np.random.default_rng(0)
    tokens = list(chance.standard_normal((3, 1, 4, grid.tokens, 8)).astype(np.float32))
    found = found_blocks(tokens, 0.3, grid, sparsity)
    expected = density(sparsity, grid.tokens, words_of(grid))
    assert np.mean([each.density for each in found]) == pytest.approx(expected, abs=0.03)
    if not sparsity:
        assert all(each.kept.all() for each in found)


def test_a_mean_step_is_that_of_the_schedule():
    online = PlanOnline(steps=10, full=2, searches=(2, 6), sparsity=0.8)
    kept = density(0.8, moving.GRID.tokens, (0, 0))
    assert time_share(online, moving.GRID) == pytest.approx((2 + 2 * SEARCH + 8 * kept) / 10)


def searching():
    """The toy with an op for each attention, and entries of a plan for them."""
    graph = capture(moving.exported(True, False))
    run(pipeline.EXACT_BEFORE, graph, Context())
    found, grid = asked_for(graph, moving.GRID.spec, Context())
    return graph, as_ops(graph, found), grid


def test_what_searches_at_every_call_is_what_is_judged(session):
    """The op in ONNX Runtime, before its state is exposed, against blocks found in numpy."""
    graph, nodes, grid = searching()
    online = PlanOnline.parse("10")
    entries = [as_online(unsearched(node, grid, TARGET), online) for node in nodes]
    feed = moving.marked(7)
    wanted = outputs(graph, {each.name: keeping(each) for each in entries}, [feed])[0][0]
    for node in nodes:
        search_online(node, grid, online)
    ops.attach_functions(graph)
    got = session(graph, **feed)
    # a block of next to no mass may be chosen otherwise by rounding
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_recalls_say_which_attention_moves():
    graph, nodes, _ = searching()
    kept = np.zeros((moving.SIDE, moving.SIDE), bool)
    kept[:, 5] = True
    one, other = (str(node.name) for node in nodes)
    still = np.zeros_like(kept)
    still[:, moving.FIXED] = True
    patterns = {
        name: [Pattern("vertical", 64, each)] * moving.HEADS
        for name, each in ((one, kept), (other, still))
    }
    here, there = (recalls(graph, patterns, [moving.marked(block)]) for block in (5, 6))
    assert min(here[one]) > 0.9
    assert max(there[one]) < 0.1
    assert np.abs(here[other] - there[other]).max() < 0.1


def test_the_state_is_inputs_and_outputs_of_the_model(session):
    graph, nodes, grid = searching()
    names = [str(node.name) for node in nodes]
    for node in nodes:
        search_online(node, grid, PlanOnline.parse("10"))
    states = expose(graph)
    assert [each.name for each in states] == ["step", "blocks.0", "blocks.1"]
    assert [each.attention for each in states] == ["", *names]
    assert [value.name for value in graph.graph.inputs] == ["x", *(each.name for each in states)]
    assert [each.next for each in states[1:]] == [v.name for v in graph.graph.outputs][1:]
    blocks = moving.HEADS * moving.SIDE**2
    begins = {(each.dtype, each.dims, each.begin) for each in states[1:]}
    assert begins == {("int32", (blocks,), -1)}
    assert not [name for name in graph.graph.initializers if name.endswith((".step", ".blocks"))]
    assert expose(capture(moving.exported(True, False))) == ()


def test_names_that_a_model_has_are_left_to_it():
    graph, nodes, grid = searching()
    graph.graph.inputs[0].name = "step"
    search_online(nodes[0], grid, PlanOnline.parse("10"))
    assert [each.name for each in expose(graph)] == ["step_2", "blocks.0"]
