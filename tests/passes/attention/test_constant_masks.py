"""Attention that hides keys in every run: constant masks and other forms, against the model."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.capture import capture
from sparsecc.passes.attention.constant_masks import ConstantMasks
from sparsecc.passes.attention.rules import BLOCK, Rule
from sparsecc.passes.base import Context, run
from tests.passes.attention.masked import (
    CAUSAL,
    DIM,
    FLAT,
    HEADS,
    NUMBERS,
    OPEN,
    WINDOW,
    attention,
    check,
    feeds,
    model,
    outputs,
    refusals,
    rewritten,
    rule_of,
    tokens,
)


def constant(seen: NDArray[np.bool_], low: float = -np.inf) -> NDArray[np.float32]:
    return np.where(seen, 0, low).astype(np.float32)


LONG = 200
SHAPES = ((LONG, LONG), (1, LONG, LONG), (1, 1, LONG, LONG), (HEADS, LONG, LONG))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", [CAUSAL, WINDOW, Rule(64, 0, 4)])
def test_a_constant_mask_is_a_rule(always: None, shape: tuple[int, ...], rule: Rule) -> None:
    mask = np.broadcast_to(constant(rule.seen(LONG, LONG), -3e38), shape)
    proto = model(tokens(length=LONG), attention("mask = Identity(given)"), {"given": mask.copy()})
    node, _ = check(proto, {"B": 2})
    assert node.op_type == "BlockSparseAttention"
    assert rule_of(node) == rule


def test_longformer_is_blocks_with_a_mask_on_top(always: None) -> None:
    seen = Rule(20, 20).seen(LONG, LONG)
    seen[0] = seen[:, 0] = True
    proto = model(
        tokens(length=LONG), attention("", "m = Add(s, given)"), {"given": constant(seen)}
    )
    node, _ = check(proto, {"B": 2})
    assert node.op_type == "BlockSparseAttention_blocks_mask"
    index, grid = (value.const_value.numpy() for value in node.inputs[3:5])
    assert grid.tolist() == [1, 4, 4, BLOCK, BLOCK]
    assert index.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 14, 15]


def test_heads_with_blocks_of_their_own(always: None) -> None:
    rng = np.random.default_rng(0)
    blocks = (rng.random((HEADS, 4, 4)) < 0.3) | np.eye(4, dtype=bool)
    seen = blocks.repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)[:, :LONG, :LONG]
    proto = model(
        tokens(length=LONG), attention("", "m = Add(s, given)"), {"given": constant(seen)}
    )
    node, _ = check(proto, {"B": 2})
    assert node.op_type == "BlockSparseAttention_blocks"
    assert node.inputs[4].const_value.numpy()[0] == HEADS


FIXED = {
    "distances": np.arange(LONG)[None] - np.arange(LONG)[:, None],
    "distances the other way": np.arange(LONG)[:, None] - np.arange(LONG)[None],
    "absolute": np.abs(np.arange(LONG)[:, None] - np.arange(LONG)[None]),
}


@pytest.mark.parametrize("name", FIXED)
def test_constant_distances_that_are_compared(always: None, name: str) -> None:
    text = attention("c = LessOrEqual(apart, five)\n mask = Where(c, f0, low)")
    node, _ = check(model(tokens(length=LONG), text, NUMBERS | {"apart": FIXED[name]}), {"B": 1})
    wanted = {"distances": Rule(right=5), "absolute": Rule(5, 5)}
    assert rule_of(node) == wanted.get(name, Rule(left=5))


def test_a_constant_bias_beside_a_rule_stays_as_small_as_it_is(always: None) -> None:
    """Slopes of ALiBi: one number for each head and key."""
    slopes = -np.arange(LONG, dtype=np.float32) * np.float32([[[0.1]], [[0.2]], [[0.3]], [[0.4]]])
    text = attention("a = Add(s, slopes)", "m = Add(a, given)")
    given = {"given": constant(CAUSAL.seen(LONG, LONG)), "slopes": slopes}
    node, _ = check(model(tokens(length=LONG), text, given), {"B": 2})
    assert node.op_type == "BlockSparseAttention_mask"
    assert list(node.inputs[3].shape) == [HEADS, 1, LONG]
    assert rule_of(node) == CAUSAL


SHARED = {
    "repeated": """
        k5 = Unsqueeze(k, row_axis)
        v5 = Unsqueeze(v, row_axis)
        ke = Expand(k5, ones)
        ve = Expand(v5, ones)
        kr = Reshape(ke, whole)
        vr = Reshape(ve, whole)
        kt = Transpose<perm = [0, 1, 3, 2]>(kr)""",
    "one for all": """
        vr = Identity(v)
        kt = Transpose<perm = [0, 1, 3, 2]>(k)""",
}


@pytest.mark.parametrize("name", SHARED)
def test_heads_of_keys_that_several_share_are_read_once(always: None, name: str) -> None:
    heads = 1 if "one" in name else 2
    text = f"""{SHARED[name]}
        s = MatMul(q, kt)
        m = Add(s, given)
        p = Softmax<axis = -1>(m)
        y = MatMul(p, vr)"""
    arrays = {
        "given": constant(CAUSAL.seen(LONG, LONG)),
        "ones": np.array([1, 1, 2, 1, 1], np.int64),
        "whole": np.array([-1, HEADS, LONG, DIM], np.int64),
        "row_axis": np.array([2], np.int64),
    }
    node, _ = check(model(tokens(length=LONG, heads=heads), text, arrays), {"B": 2})
    assert [value.shape[1] for value in node.inputs[1:3]] == [heads, heads]


def test_scales_on_both_sides_and_keys_turned_at_once(always: None) -> None:
    text = """
        root = Sqrt(half)
        qs = Mul(q, root)
        kt = Transpose<perm = [0, 2, 3, 1]>(k)
        ks = Mul(root, kt)
        vt = Transpose<perm = [0, 2, 1, 3]>(v)
        s = MatMul(qs, ks)
        m = Add(s, given)
        p = Softmax<axis = -1>(m)
        y = MatMul(p, vt)"""
    ports = f"float[B, {HEADS}, {LONG}, {DIM}] q, " + ", ".join(
        f"float[B, {LONG}, {HEADS}, {DIM}] {name}" for name in "kv"
    )
    given = {"given": constant(WINDOW.seen(LONG, LONG))}
    node, graph = check(model(ports, text, given), {"B": 2})
    assert math.isclose(node.attributes["scale"].as_float(), 0.5, rel_tol=1e-6)
    assert [each.op_type for each in graph.graph].count("Transpose") == 2


def test_batch_and_heads_may_be_one_dimension(always: None) -> None:
    arrays = {
        "given": constant(CAUSAL.seen(LONG, LONG)),
        "flat": np.array([-1, LONG, DIM], np.int64),
        "whole": np.array([-1, HEADS, LONG, DIM], np.int64),
    }
    check(model(tokens(length=LONG), FLAT, arrays), {"B": 1}, {"B": 3})


def test_a_query_that_sees_no_key_gives_zeros_where_it_did() -> None:
    """Attention of opset 23 is defined so: what it is lowered to keeps it, and the op has it."""
    seen = CAUSAL.seen(LONG, LONG)
    seen[7] = False
    text = "y = Attention(q, k, v, given)"
    proto = model(tokens(length=LONG), text, {"given": seen}, opset=23)
    graph, ctx = rewritten(proto)
    assert not ctx.refusals
    given = feeds(proto, B=1)
    got = outputs(ir.to_proto(graph).SerializeToString(), given)
    scores = given["q"].astype(np.float64) @ given["k"].swapaxes(-1, -2) / math.sqrt(DIM)
    weights = np.where(seen, np.exp(scores), 0)
    want = weights @ given["v"] / np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert any(ops.is_attention(node) for node in graph.graph)


@pytest.mark.parametrize("length", ["T", LONG])
def test_causal_attention_of_opset_23(always: None, length: str | int) -> None:
    text = "y = Attention<is_causal = 1, scale = 0.25>(q, k, v)"
    proto = model(tokens(length=length, heads=2), text, opset=23)
    node, _ = check(proto, *(OPEN if length == "T" else [{"B": 2}]))
    assert rule_of(node) == CAUSAL
    assert node.inputs[1].shape[1] == 2
    assert node.attributes["scale"].as_float() == 0.25


DECLINED = {
    "a mask that depends on the inputs": ("", "m = Add(s, pairs)"),
    "a mask that hides no key": ("", "m = Add(s, small)"),
    "scores capped by Tanh": ("t = Tanh(s)", "m = Add(t, given)"),
    "a query that sees no key": ("", "m = Add(s, blind)"),
    "a mask that differs between the samples of a batch": ("", "m = Add(s, samples)"),
    "scores in whose place stand other values than one number": ("", "m = Where(flags, s, given)"),
    "probabilities that Mul reads": (
        "m = Add(s, given)",
        "r = Softmax<axis = -1>(m)\n p = Mul(r, half)\n y = MatMul(p, v)",
    ),
}


@pytest.mark.parametrize("reason", DECLINED)
def test_what_is_declined_says_why(always: None, reason: str) -> None:
    seen = CAUSAL.seen(LONG, LONG)
    blind = seen.copy()
    blind[3] = False
    masks = {
        "given": constant(seen),
        "blind": constant(blind),
        "samples": np.stack([constant(seen), constant(blind | seen.T)])[:, None],
        "flags": seen,
        "small": np.zeros((LONG, LONG), np.float32) - 1,
    }
    pairs = f"float[2, 1, {LONG}, {LONG}] pairs"
    text = attention(*DECLINED[reason])
    if "y = " in DECLINED[reason][1]:
        text = text[: text.index("p = Softmax<axis = -1>(m)")]
    assert refusals(model(f"{tokens('2', LONG)}, {pairs}", text, masks)) == [reason]


def test_attention_without_a_mask_is_nothing_to_speak_of() -> None:
    assert refusals(model(tokens(), attention("", "m = Identity(s)"))) == []


@pytest.mark.parametrize(("length", "window", "pays"), [(80, 75, False), (2048, 99, True)])
def test_the_estimate_decides(length: int, window: int, pays: bool) -> None:
    mask = constant(Rule(window, window).seen(length, length))
    proto = model(tokens(length=length), attention("", "m = Add(s, given)"), {"given": mask})
    graph, ctx = rewritten(proto)
    assert any(ops.is_attention(node) for node in graph.graph) == pays
    assert [refusal.reason.split()[0] for refusal in ctx.refusals] == ["estimated"][pays:]


def test_without_a_target_nothing_changes() -> None:
    mask = constant(CAUSAL.seen(LONG, LONG))
    graph = capture(model(tokens(length=LONG), attention("", "m = Add(s, given)"), {"given": mask}))
    assert not run([ConstantMasks()], graph, Context(verify=True))
