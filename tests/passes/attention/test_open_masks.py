"""Masks computed from positions, at any length: each way to write them, against the model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sparsecc import ops
from sparsecc.passes.attention.rules import Rule
from tests.passes.attention.masked import (
    CAUSAL,
    COUNTED,
    NUMBERS,
    OPEN,
    WINDOW,
    attention,
    check,
    feeds,
    model,
    outputs,
    rewritten,
    rule_of,
    tokens,
)

OPEN_MASKS = {
    "counted": (f"{COUNTED} c = LessOrEqual(at, rows)\n mask = Where(c, f0, low)", CAUSAL),
    "counted the other way": (
        f"{COUNTED} c = Greater(at, rows)\n mask = Where(c, least, f0)",
        CAUSAL,
    ),
    "a distance": (
        f"""{COUNTED} d = Sub(at, rows)
        a = LessOrEqual(d, three)
        b = GreaterOrEqual(d, minus5)
        c = And(a, b)
        mask = Where(c, f0, low)""",
        WINDOW,
    ),
    "an absolute distance": (
        f"""{COUNTED} d = Sub(rows, at)
        a = Abs(d)
        c = Less(a, five)
        mask = Where(c, f0, low)""",
        Rule(4, 4),
    ),
    "far away": (
        f"""{COUNTED} d = Sub(at, rows)
        a = Abs(d)
        c = Greater(a, five)
        mask = Where(c, least, f0)""",
        Rule(5, 5),
    ),
    "streaming": (
        f"""{COUNTED} d = Sub(rows, at)
        near = Less(d, five)
        sink = Less(at, three)
        a = Or(near, sink)
        b = LessOrEqual(at, rows)
        c = And(a, b)
        mask = Where(c, f0, low)""",
        Rule(4, 0, 3),
    ),
    "triu": (
        """shape = Shape<start = 2, end = 4>(s)
        full = ConstantOfShape<value = float[1] {-3.4e38}>(shape)
        mask = Trilu<upper = 1>(full, one)""",
        CAUSAL,
    ),
    "one minus tril": (
        """shape = Shape<start = 2, end = 4>(s)
        full = ConstantOfShape<value = float[1] {1}>(shape)
        tril = Trilu<upper = 0>(full, zero)
        other = Sub(f1, tril)
        mask = Mul(other, least)""",
        CAUSAL,
    ),
    "a part of a larger one": (
        """length = Shape<start = 2, end = 3>(s)
        a = Slice(buffer, first, length, row_axis)
        part = Slice(a, first, length, last_axis)
        mask = Where(part, f0, least)""",
        CAUSAL,
    ),
}


@pytest.mark.parametrize("name", OPEN_MASKS)
def test_a_mask_computed_from_positions_is_a_rule(always: None, name: str) -> None:
    mask, rule = OPEN_MASKS[name]
    node, _ = check(model(tokens(), attention(mask), NUMBERS), *OPEN)
    assert node.op_type == "BlockSparseAttention"
    assert rule_of(node) == rule
    assert node.attributes["scale"].as_float() == 0.5


SCORES = {
    "chosen": "m = Where(c, s, low)",
    "chosen the other way": "n = Not(c)\n m = Where(n, least, s)",
    "scaled behind": "a = Where(c, s, low)\n m = Div(a, half)",
    "added in double": """
        mask = Where(c, f0, low)
        a = Add(s, mask)
        b = Cast<to = 11>(a)
        p1 = Softmax<axis = -1>(b)
        p = Cast<to = 1>(p1)
        y = MatMul(p, v)""",
    "guarded": """
        m = Where(c, s, low)
        p1 = Softmax<axis = -1>(m)
        nan = IsNaN(p1)
        p = Where(nan, f0, p1)
        y = MatMul(p, v)""",
}


@pytest.mark.parametrize("name", SCORES)
def test_a_mask_may_choose_scores(always: None, name: str) -> None:
    text = attention(f"{COUNTED} c = LessOrEqual(at, rows)", SCORES[name])
    if "y = " in SCORES[name]:
        text = text[: text.index("p = Softmax<axis = -1>(m)")]
    node, _ = check(model(tokens(), text, NUMBERS), *OPEN)
    assert rule_of(node) == CAUSAL
    assert node.attributes["scale"].as_float() == (1.0 if "behind" in name else 0.5)


PADDED = {
    "added": """
        lower = Where(c, f0, low)
        a = Add(s, lower)
        m = Add(a, keys)""",
    "added beforehand": """
        lower = Where(c, f0, low)
        mask = Add(lower, keys)
        m = Add(s, mask)""",
    "both": """
        both = And(c, flags)
        mask = Where(both, f0, least)
        m = Add(s, mask)""",
    "chosen": """
        both = And(flags, c)
        m = Where(both, s, least)""",
}


@pytest.mark.parametrize("name", PADDED)
def test_padding_stays_a_mask_of_keys_alone(always: None, name: str) -> None:
    ports = f"{tokens()}, float[B, 1, 1, T] keys, bool[B, 1, 1, T] flags"
    text = attention(f"{COUNTED} c = LessOrEqual(at, rows)", PADDED[name])
    proto = model(ports, text, NUMBERS)
    graph, ctx = rewritten(proto)
    assert not ctx.refusals
    (node,) = (node for node in graph.graph if ops.is_attention(node))
    assert rule_of(node) == CAUSAL
    mask = node.inputs[-1]
    assert mask is not None
    assert mask.shape is not None
    assert list(mask.shape)[1:3] == [1, 1]
    for sizes in OPEN:
        given = dict(feeds(proto, **sizes))
        given["flags"][..., 0] = True  # every query sees a key
        want = outputs(proto.SerializeToString(), given)
        got = outputs(ir.to_proto(graph).SerializeToString(), given)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
