"""Tokens that see their own group alone: sets of them, against the model with its mask."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import sparsecc
from sparsecc import ops
from sparsecc.passes.attention.sets import Sets, made_of, sets_of
from tests.passes.attention.masked import (
    DIM,
    FLAT,
    HEADS,
    Arrays,
    attention,
    check,
    feeds,
    model,
    outputs,
    rewritten,
    tokens,
)

Groups = NDArray[np.int64]


def windows(height: int, width: int, size: int, shift: int = 0) -> Groups:
    """The window of each token of a grid, rolled by so much."""
    rows, columns = ((np.arange(side) + shift) // size for side in (height, width))
    return (rows[:, None] * (width + 1) + columns).reshape(-1)


def mask_of(groups: Groups, low: float = -np.inf) -> NDArray[np.float32]:
    return np.where(groups[:, None] == groups, 0, low).astype(np.float32)


GROUPS = {
    "windows of a grid": (windows(14, 21, 7), (6, 49), False),
    "shifted windows": (windows(14, 14, 7, 3), (4, 49), True),
    "texts of one length": (np.repeat([0, 1, 2, 3], 50), (4, 50), False),
    "texts of all lengths": (np.repeat([0, 1, 2, 3, 4, 5], [5, 90, 17, 40, 3, 45]), (3, 90), True),
    "tokens anywhere": (np.arange(200) * 7919 % 5, (5, 40), False),
}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("low", [-np.inf, -1e5])
def test_each_set_is_attended_to_by_itself(always: None, name: str, low: float) -> None:
    groups, shape, masked = GROUPS[name]
    proto = model(
        tokens(length=len(groups)),
        attention("", "m = Add(s, given)"),
        {"given": mask_of(groups, low)},
    )
    node, graph = check(proto, {"B": 1}, {"B": 3})
    assert node.op_type == "BlockSparseAttention" + "_mask" * masked
    moved = [each.inputs[1].const_value for each in graph.graph if each.op_type == "Gather"]
    sizes = [index.size for index in moved if index is not None and index.size > 1]
    slots = math.prod(shape)
    assert sizes == ([] if name == "texts of one length" else [slots] * 3 + [len(groups)])
    made = made_of(node)
    assert made is not None
    assert made.sets.tokens.shape == shape


@st.composite
def partitions(draw: st.DrawFn) -> Groups:
    sizes = draw(st.lists(st.integers(1, 9), min_size=2, max_size=9))
    return np.array(draw(st.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist())))


@settings(max_examples=200, deadline=None)
@given(partitions())
def test_every_token_has_one_slot_and_sees_its_group(groups: Groups) -> None:
    found = sets_of(groups[:, None] == groups)
    assert isinstance(found, Sets)
    flat = found.tokens.reshape(-1)
    assert flat[found.slots].tolist() == list(range(len(groups)))
    at, slot = np.divmod(found.slots, found.tokens.shape[1])
    same_set = at[:, None] == at
    seen = same_set & found.seen[at[:, None], slot[:, None], slot]
    assert np.array_equal(seen, groups[:, None] == groups)
    left_over = np.ones(found.tokens.size, bool)
    left_over[found.slots] = False
    nobody = left_over.reshape(found.tokens.shape)
    assert not found.seen.swapaxes(1, 2)[nobody].any()  # as keys
    assert found.seen.any(axis=-1).all()  # a softmax over nothing would be no number


@settings(max_examples=100, deadline=None)
@given(partitions(), st.data())
def test_what_is_no_grouping_makes_no_sets(groups: Groups, data: st.DataObject) -> None:
    seen = groups[:, None] == groups
    i, j = (data.draw(st.integers(0, len(groups) - 1)) for _ in range(2))
    seen[i, j] = not seen[i, j]
    alone = np.count_nonzero(groups == groups[i]) == np.count_nonzero(groups == groups[j]) == 1
    assert alone or sets_of(seen) is None


@pytest.mark.parametrize("seen", [np.ones((5, 5), bool), np.ones((0, 0), bool), np.eye(4, 6) > 0])
def test_one_group_or_none_makes_no_sets(seen: NDArray[np.bool_]) -> None:
    assert sets_of(seen) is None


BIASES = {
    "of each head": (HEADS, 196, 196),
    "of all heads": (196, 196),
    "of keys": (HEADS, 1, 196),
    "of queries": (1, 1, 196, 1),
}


@pytest.mark.parametrize("name", BIASES)
@pytest.mark.parametrize("shift", [0, 3])
def test_a_bias_inside_of_the_groups_is_kept(always: None, name: str, shift: int) -> None:
    bias = np.random.default_rng(0).standard_normal(BIASES[name]).astype(np.float32)
    given = {"given": mask_of(windows(14, 14, 7, shift)), "bias": bias}
    text = attention("a = Add(s, bias)", "m = Add(a, given)")
    node, _ = check(model(tokens(length=196), text, given), {"B": 1}, {"B": 2})
    assert node.op_type == "BlockSparseAttention_mask"


def test_one_bias_for_all_windows_is_stored_once(always: None) -> None:
    """As Swin has it: by the distance within a window."""
    groups = windows(14, 14, 7)
    within = np.random.default_rng(0).standard_normal((HEADS, 49, 49)).astype(np.float32)
    order = np.argsort(groups, kind="stable").reshape(-1, 49)
    bias = np.full((HEADS, 196, 196), -np.inf, np.float32)
    for window in order:
        bias[:, window[:, None], window] = within
    proto = model(tokens(length=196), attention("", "m = Add(s, given)"), {"given": bias})
    node, _ = check(proto, {"B": 3})
    mask = node.inputs[3].const_value
    assert mask is not None
    assert np.array_equal(mask.numpy()[0], within)


def test_heads_and_batch_in_one_dimension(always: None) -> None:
    arrays: Arrays = {
        "given": mask_of(windows(10, 20, 10)),
        "flat": np.array([-1, 200, DIM]),
        "whole": np.array([-1, HEADS, 200, DIM]),
    }
    node, _ = check(model(tokens(length=200), FLAT, arrays), {"B": 1}, {"B": 3})
    assert node.op_type == "BlockSparseAttention"


def test_heads_of_keys_that_several_share_are_moved_once(always: None) -> None:
    text = attention("", "m = Add(s, given)").replace("(k)", "(kr)").replace("(p, v)", "(p, vr)")
    repeated = """
        k5 = Unsqueeze(k, axis)
        v5 = Unsqueeze(v, axis)
        ke = Expand(k5, twice)
        ve = Expand(v5, twice)
        kr = Reshape(ke, whole)
        vr = Reshape(ve, whole)"""
    arrays: Arrays = {
        "given": mask_of(windows(10, 20, 10)),
        "axis": np.array([2]),
        "twice": np.array([1, 1, 2, 1, 1]),
        "whole": np.array([-1, HEADS, 200, DIM]),
    }
    node, _ = check(model(tokens("2", 200, HEADS // 2), repeated + text, arrays))
    made = made_of(node)
    assert made is not None
    keys = node.inputs[1]
    assert keys is not None
    assert keys.shape == (4, HEADS // 2, 100, DIM)


def test_with_padding_that_comes_with_the_inputs_it_is_blocks(always: None) -> None:
    text = attention("a = Add(s, padding)", "m = Add(a, given)")
    ports = f"{tokens(length=196)}, float[B, 1, 1, 196] padding"
    proto = model(ports, text, {"given": mask_of(windows(14, 14, 7))})
    graph, ctx = rewritten(proto)
    assert [refusal.reason for refusal in ctx.refusals] == [
        "not in sets of tokens: a mask that depends on the inputs"
    ]
    given = feeds(proto, B=2)
    content = ir.to_proto(graph).SerializeToString()
    want = outputs(proto.SerializeToString(), given)
    np.testing.assert_allclose(outputs(content, given), want, rtol=0, atol=1e-5)
    assert any(node.op_type == "BlockSparseAttention_blocks_mask" for node in graph.graph)


@pytest.mark.parametrize(
    ("groups", "way"), [(windows(48, 48, 8), "sets"), (np.repeat(np.arange(8), 256), "blocks")]
)
def test_the_estimate_decides_between_sets_and_blocks(groups: Groups, way: str) -> None:
    text = attention("", "m = Add(s, given)")
    graph, ctx = rewritten(model(tokens(length=len(groups)), text, {"given": mask_of(groups)}))
    (node,) = (each for each in graph.graph if ops.is_attention(each))
    by_blocks = way == "blocks"
    assert ("_blocks" in node.op_type) == by_blocks
    reasons = [" ".join(refusal.reason.split()[:6]) for refusal in ctx.refusals]
    assert reasons == ["not in sets of tokens: estimated"] * by_blocks


@pytest.mark.parametrize("target", ["native", "wasm"])
def test_a_compiled_model_of_windows_computes_what_it_did(target: str) -> None:
    groups = windows(32, 32, 8, 4)
    proto = model(
        tokens("2", len(groups)), attention("", "m = Add(s, given)"), {"given": mask_of(groups)}
    )
    compiled = sparsecc.compile(proto, target=target)
    (row,) = (each for each in compiled.report.rows if each.kernel == "attention")
    assert row.pattern == "sets of 64"
    assert row.shape == (1024, 1024)
    assert row.density == pytest.approx(25 * 64 * 64 / 1024**2, rel=0.4)
    given = feeds(proto)
    want = outputs(proto.SerializeToString(), given)
    np.testing.assert_allclose(next(iter(compiled.run(given).values())), want, atol=1e-5)
