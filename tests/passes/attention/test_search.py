"""The search recovers patterns that were planted, head by head."""

import numpy as np
import pytest

from sparsecc import ops, targets
from sparsecc.capture import capture
from sparsecc.errors import PlanError
from sparsecc.passes import pipeline
from sparsecc.passes.attention.modes import Grid
from sparsecc.passes.attention.offers import FULL, SKIP, Offer
from sparsecc.passes.attention.plan import as_ops, asked_for, carry_out, keeping, planned
from sparsecc.passes.attention.search import PAPER, Price, Weighed, outputs, weigh
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights.layers import find_layers
from sparsecc.search.attentions import PlanAttention, PlanHead
from tests.passes.attention import planted

TARGET = targets.read("x86-64-v3")


def canonical(layers=planted.LAYERS):
    graph = capture(planted.exported(layers))
    run(pipeline.EXACT_BEFORE, graph, Context())
    return graph


@pytest.fixture(scope="module")
def searched():
    graph, ctx = canonical(), Context()
    found, grid = asked_for(graph, planted.GRID.spec, ctx)
    assert grid == planted.GRID
    assert not ctx.refusals
    grids = {str(node.name): grid for node in as_ops(graph, found)}
    table = weigh(graph, grids, planted.samples(2), TARGET, price=PAPER, told=lambda *_: None)
    return graph, [planned(name, grid, heads, PAPER, "") for name, heads in table.items()]


def test_the_planted_pattern_of_each_head_is_found(searched):
    _, entries = searched
    assert [[head.mode for head in each.heads] for each in entries] == planted.modes()
    for entry in entries:
        assert entry.predicted_ms < entry.dense_ms / 3
        assert all(head.density < 0.1 for head in entry.heads if head.mode != "full")
        stripes = [head.keys for head in entry.heads if head.mode == "vertical"]
        assert all(keys == (planted.STRIPES[0] // 64,) for keys in stripes)


def test_the_less_time_is_worth_the_wider_is_what_a_head_keeps():
    kept = (Offer("diagonal", 2), Offer("diagonal", 4), SKIP)
    errors = np.array([[0.1, 0.01, 1.0]])
    head = Weighed(kept, errors, np.array([0.2, 0.5, 0]), np.array([0.2, 0.5, 0]), 1.0)
    prices = [0.0, 0.01, 0.1, 0.5, 5.0]
    assert [head.offer(Price.of(each)) for each in prices] == [FULL, FULL, kept[1], kept[0], SKIP]
    assert head.offer(PAPER) == kept[0]
    assert head.offer(Price(0.5, 0.1)) == FULL


def test_each_sample_says_what_it_prefers(searched):
    _, entries = searched
    for entry, modes in zip(entries, planted.modes(), strict=True):
        assert entry.samples == ("".join(mode[0] for mode in modes),) * 2


def test_what_is_carried_out_is_what_was_examined(searched, session):
    graph, entries = searched
    feeds = planted.samples(1)
    wanted = outputs(graph, {each.name: keeping(each) for each in entries}, feeds)[0][0]
    model = canonical()
    carry_out(model, entries, Context())
    nodes = [node for node in model.graph if ops.is_attention(node)]
    assert len(nodes) == 2 * len(entries)  # heads with their tokens in another order, and others
    for node in nodes:
        ops.check_node(node)
    got = session(model, **feeds[0])
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


def entry(**changes):
    heads = changes.pop(
        "heads", [PlanHead(mode="diagonal", setting=1, density=0.1)] * planted.HEADS
    )
    fields = {
        "name": "node_matmul_1",
        "grid": planted.GRID.spec,
        "block": 64,
        "heads": tuple(heads),
        "time_weight": 0.5,
        "most_loss": 1.0,
        "predicted_ms": 1.0,
        "dense_ms": 2.0,
    }
    return PlanAttention(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "elsewhere"}, "'elsewhere': the model has none"),
        ({"grid": "8x16x17"}, "2176 tokens, the attention has 2048"),
        ({"grid": "8x"}, "no grid of tokens"),
        ({"block": 16}, "blocks of 16 tokens"),
        ({"heads": [PlanHead(mode="skip", density=0.0)]}, "1 heads, the model 8"),
        (
            {"heads": [PlanHead(mode="diagonal", setting=0, density=0.1)] * planted.HEADS},
            "keeps nothing",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(PlanError, match=message):
        carry_out(canonical(1), [entry(**changes)], Context())


def test_a_grid_that_does_not_fit_names_the_attention_and_both_numbers():
    with pytest.raises(PlanError, match="6144 tokens, the attention has 2048") as caught:
        asked_for(canonical(1), "8x16x48", Context())
    assert caught.value.node == "node_matmul_1"
    with pytest.raises(PlanError, match="more than one grid"):
        asked_for(canonical(1), "auto", Context())


@pytest.mark.parametrize("heads", [[0], [1, 2], [0, 7], [3, 5, 6], range(8)])
def test_heads_in_another_order_are_put_back(heads, session):
    """Any heads may be those whose tokens move."""
    graph = canonical(1)
    modes = ["multi-diagonal" if at in heads else "diagonal" for at in range(planted.HEADS)]
    plan = entry(heads=[PlanHead(mode=mode, setting=2, density=0.1) for mode in modes])
    feeds = planted.samples(1)
    found, _ = asked_for(graph, planted.GRID.spec, Context())
    as_ops(graph, found)
    wanted = outputs(graph, {plan.name: keeping(plan)}, feeds)[0][0]
    model = canonical(1)
    carry_out(model, [plan], Context())
    assert np.abs(session(model, **feeds[0]) - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_model_without_attention_says_so():
    from tests import small

    graph = capture(small.mlp("n"))
    run(pipeline.EXACT_BEFORE, graph, Context())
    with pytest.raises(PlanError, match="no attention whose blocks"):
        asked_for(graph, Grid(1, 2, 2).spec, Context())


def heads_that(say, layers=2):
    """A model of plain layers, from one array of tokens to the next, and a plan for it."""
    graph = capture(planted.plain(layers))
    run(pipeline.EXACT_BEFORE, graph, Context())
    found, _ = asked_for(graph, planted.SMALL.spec, Context())
    heads = [
        PlanHead(mode=mode, setting=int(mode not in ("skip", "full")), density=0.5) for mode in say
    ]
    plans = [entry(name=each.name, grid=planted.SMALL.spec, heads=heads) for each in found]
    return graph, found, plans


@pytest.mark.parametrize(
    "say",
    [
        ("skip", "diagonal", "skip", "multi-diagonal"),
        ("full", "skip", "full", "full"),
        ("skip", "skip", "skip", "skip"),
    ],
)
def test_skipped_heads_are_deleted_and_nothing_changes(say, session):
    graph, found, plans = heads_that(say)
    x = np.random.default_rng(0).standard_normal((1, 128, 32)).astype(np.float32)
    as_ops(graph, found)
    wanted = outputs(graph, {each.name: keeping(each) for each in plans}, [{"x": x}])[0][0]
    model, _, _ = heads_that(say)
    carry_out(model, plans, Context())
    left = say.count("skip") % len(say)
    sizes = {layer.name: layer.rows for layer in find_layers(model).layers}
    assert set(sizes.values()) == {96 - 24 * left, 32}
    got = session(model, x=x)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
