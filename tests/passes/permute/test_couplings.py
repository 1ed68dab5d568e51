from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from sparsecc.capture import capture
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.permute.couplings import Couplings, find_couplings
from sparsecc.passes.permute.rearrange import rearrange
from tests.passes.permute.graphs import Net, cycles, sizes

TOLERANCE = 1e-10  # float64: sums in another order


def shuffled(proto: onnx.ModelProto, x: NDArray[np.float64], seed: int = 0) -> Couplings:
    """Permute every set at random; the model in float64 must compute the same."""
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x})
    model = capture(proto)
    run(pipeline.EXACT_BEFORE, model, Context(verify=True))
    found = find_couplings(model)
    changed = rearrange(found, cycles(found, seed))
    assert bool(changed) == bool(found.sets)
    (got,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())
    return found


def image(*shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(9).normal(0, 1, shape)


def test_residual_channels_share_one_order() -> None:
    net = Net([1, 3, 6, 6])
    x = net.op("Relu", net.conv("x", 3, 8))
    x = net.op("Add", x, net.conv(net.op("Relu", net.conv(x, 8, 12, 3)), 12, 8))
    found = shuffled(net.build(net.conv(x, 8, 5)), image(1, 3, 6, 6))
    assert sizes(found) == [(8, 1), (12, 1)]


def test_what_is_computed_of_a_constant_alone_stays() -> None:
    net = Net([1, 3, 80, 80])
    x = net.op("Mul", net.conv("x", 3, 8), net.op("Cos", net.weight(8, 80, 80)))
    found = shuffled(net.build(net.conv(net.conv(x, 8, 12), 12, 5)), image(1, 3, 80, 80))
    assert sizes(found) == [(12, 1)]


def test_the_reason_for_what_stays_names_the_output() -> None:
    net = Net([1, 3, 6, 6])
    found = shuffled(net.build(net.conv(net.conv("x", 3, 8), 8, 5)), image(1, 3, 6, 6))
    assert ("", "the model's output 'y'") in found.stays.values()


def test_depthwise_channels_go_with_their_layers() -> None:
    net = Net([1, 3, 6, 6])
    x = net.op("Relu", net.conv("x", 3, 8))
    x = net.conv(net.conv(x, 8, 8, 3, group=8), 8, 16, 1)
    found = shuffled(net.build(net.conv(net.op("Sigmoid", x), 16, 4)), image(1, 3, 6, 6))
    assert sizes(found) == [(8, 1), (16, 1)]


def test_groups_move_whole_and_channels_inside() -> None:
    net = Net([1, 3, 6, 6])
    x = net.conv(net.op("Relu", net.conv("x", 3, 12)), 12, 24, 3, group=4)
    found = shuffled(net.build(net.conv(net.op("Relu", x), 24, 4)), image(1, 3, 6, 6))
    assert sizes(found) == [(3, 1)] * 4 + [(4, 10)] + [(6, 1)] * 4


def test_a_depthwise_multiplier_is_a_group_of_its_own() -> None:
    net = Net([1, 3, 6, 6])
    x = net.conv(net.op("Relu", net.conv("x", 3, 4)), 4, 12, 3, group=4)
    found = shuffled(net.build(net.conv(x, 12, 4)), image(1, 3, 6, 6))
    assert sizes(found) == [(3, 1)] * 4 + [(4, 4)]


def test_squeeze_and_excite() -> None:
    net = Net([1, 3, 6, 6])
    x = net.op("Relu", net.conv("x", 3, 8))
    gate = net.op("Relu", net.conv(net.op("GlobalAveragePool", x), 8, 4))
    x = net.op("Mul", x, net.op("Sigmoid", net.conv(gate, 4, 8)))
    found = shuffled(net.build(net.conv(x, 8, 2)), image(1, 3, 6, 6))
    assert sizes(found) == [(4, 1), (8, 1)]


def test_parts_of_a_concat_keep_to_themselves() -> None:
    net = Net([1, 3, 6, 6])
    x = net.op("Concat", net.conv("x", 3, 4), net.conv("x", 3, 8), axis=1)
    left, right = net.op("Split", net.conv(x, 12, 16), net.ints(6, 10), outputs=2, axis=1)
    x = net.op("Concat", net.op("Relu", right), net.op("Tanh", left), x, axis=1)
    found = shuffled(net.build(net.conv(x, 28, 2)), image(1, 3, 6, 6))
    assert sizes(found) == [(4, 1), (6, 1), (8, 1), (10, 1)]


def test_channels_behind_a_flatten_take_their_pixels_along() -> None:
    net = Net([1, 3, 4, 4])
    x = net.op("Flatten", net.op("Relu", net.conv("x", 3, 6, 3)), axis=1)
    x = net.op("Gemm", x, net.weight(10, 96), net.weight(10), transB=1)
    found = shuffled(net.build(net.linear(net.op("Relu", x), 10, 3)), image(1, 3, 4, 4))
    assert sizes(found) == [(6, 17), (10, 1)]


def test_a_channel_shuffle_is_followed() -> None:
    net = Net([1, 3, 4, 4])
    x = net.op("Reshape", net.conv("x", 3, 12), net.ints(1, 3, 4, 4, 4))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3, 4]), net.ints(1, 12, 4, 4))
    found = shuffled(net.build(net.conv(x, 12, 2)), image(1, 3, 4, 4))
    assert sizes(found) == [(12, 1)]


def test_layer_norm_keeps_the_stream_free() -> None:
    net = Net([1, 5, 6])
    x = net.linear("x", 6, 8)
    x = net.op("Add", x, net.linear(net.op("Relu", norm(net, x, 8)), 8, 8))
    found = shuffled(net.build(net.linear(norm(net, x, 8), 8, 3)), image(1, 5, 6))
    assert sizes(found) == [(8, 1)]


def test_up_and_gate_share_the_order_of_the_hidden_layer() -> None:
    net = Net([1, 5, 6])
    gate, up = net.linear("x", 6, 16), net.linear("x", 6, 16)
    x = net.op("Mul", net.op("Mul", gate, net.op("Sigmoid", gate)), up)
    found = shuffled(net.build(net.linear(x, 16, 6)), image(1, 5, 6))
    assert sizes(found) == [(16, 1)]


def norm(net: Net, x: str, width: int) -> str:
    """Layer normalisation in small ops."""
    apart = net.op("Sub", x, net.op("ReduceMean", x, axes=[-1]))
    spread = net.op("Sqrt", net.op("ReduceMean", net.op("Mul", apart, apart), axes=[-1]))
    scaled = net.op("Mul", net.op("Div", apart, spread), net.weight(width))
    return net.op("Add", scaled, net.weight(width))


def heads(net: Net, x: str, count: int, width: int, tokens: int) -> str:
    split = net.op("Reshape", x, net.ints(1, tokens, count, width))
    return net.op("Transpose", split, perm=[0, 2, 1, 3])


def attention(net: Net, q: str, k: str, v: str, merged: tuple[int, int]) -> str:
    keys = net.op("Transpose", k, perm=[0, 1, 3, 2])
    scores = net.op("Softmax", net.op("MatMul", q, keys), axis=-1)
    out = net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    return net.op("Reshape", out, net.ints(1, *merged))


def test_attention_moves_heads_and_features_inside() -> None:
    net = Net([1, 5, 6])
    q, k, v = (heads(net, net.linear("x", 6, 12), 3, 4, 5) for _ in range(3))
    found = shuffled(net.build(net.linear(attention(net, q, k, v, (5, 12)), 12, 6)), image(1, 5, 6))
    assert sizes(found) == [(3, 9)] + [(4, 1)] * 6  # per head: queries with keys, and values


def test_one_product_for_queries_keys_and_values() -> None:
    net = Net([1, 5, 6])
    x = net.op("Reshape", net.linear("x", 6, 36), net.ints(1, 5, 3, 3, 4))
    x = net.op("Transpose", x, perm=[2, 0, 3, 1, 4])
    parts = [net.op("Squeeze", p, net.ints(0)) for p in net.op("Split", x, outputs=3, axis=0)]
    found = shuffled(net.build(net.linear(attention(net, *parts, (5, 12)), 12, 6)), image(1, 5, 6))
    assert sizes(found) == [(3, 9)] + [(4, 1)] * 6


def test_grouped_queries() -> None:
    """Whole KV groups, query heads inside a group, features inside a head: never across."""
    net, groups, share, width = Net([1, 5, 6]), 2, 3, 4
    q = heads(net, net.linear("x", 6, groups * share * width), groups * share, width, 5)
    k, v = (repeated(net, groups, share, width) for _ in range(2))
    x = attention(net, q, k, v, (5, groups * share * width))
    found = shuffled(net.build(net.linear(x, groups * share * width, 6)), image(1, 5, 6))
    per_group = [(share, 2 * width + 1), (width, share + 1), (width, share + 1)]
    whole = (groups, width * 2 + share * (2 * width + 1))
    assert sizes(found) == sorted([whole, *per_group * groups])


def repeated(net: Net, groups: int, share: int, width: int, *, normed: bool = False) -> str:
    """Keys or values, one for each query head, as transformers' repeat_kv makes them."""
    x = heads(net, net.linear("x", 6, groups * width), groups, width, 5)
    x = scaled(net, x, width) if normed else x
    x = net.op("Unsqueeze", x, net.ints(2))
    x = net.op("Expand", x, net.ints(1, groups, share, 5, width))
    return net.op("Reshape", x, net.ints(1, groups * share, 5, width))


def test_one_key_for_all_heads() -> None:
    net = Net([1, 5, 6])
    q = heads(net, net.linear("x", 6, 12), 3, 4, 5)
    k, v = (heads(net, net.linear("x", 6, 4), 1, 4, 5) for _ in range(2))
    found = shuffled(net.build(net.linear(attention(net, q, k, v, (5, 12)), 12, 6)), image(1, 5, 6))
    assert sizes(found) == [(3, 9), (4, 4), (4, 4)]


def test_heads_move_by_themselves_where_their_features_share_a_norm() -> None:
    """Its scales are of all heads, and so are the features that move in all of them at once."""
    net, count, width = Net([1, 5, 6]), 3, 4
    q, k = (scaled(net, heads(net, net.linear("x", 6, 12), count, width, 5), width) for _ in "qk")
    v = heads(net, net.linear("x", 6, 12), count, width, 5)
    found = shuffled(net.build(net.linear(attention(net, q, k, v, (5, 12)), 12, 6)), image(1, 5, 6))
    assert sizes(found) == [(count, 2 * width + 3)] + [(width, 1)] * 3 + [(width, count + 2)]


def test_groups_move_by_themselves_where_their_features_share_a_norm() -> None:
    net, groups, share, width = Net([1, 5, 6]), 2, 3, 4
    q = heads(net, net.linear("x", 6, groups * share * width), groups * share, width, 5)
    k = repeated(net, groups, share, width, normed=True)
    v = repeated(net, groups, share, width)
    x = attention(net, scaled(net, q, width), k, v, (5, groups * share * width))
    found = shuffled(net.build(net.linear(x, groups * share * width, 6)), image(1, 5, 6))
    whole = (groups, 2 * width + 1 + share * (2 * width + 2))
    assert whole in sizes(found)
    assert sizes(found).count((share, 2 * width + 2)) == groups


def scaled(net: Net, x: str, width: int) -> str:
    """Heads over the root of their mean square, with scales for the features of all of them."""
    mean = net.op("ReduceMean", net.op("Mul", x, x), axes=[-1])
    return str(net.op("Mul", net.op("Div", x, net.op("Sqrt", mean)), net.weight(1, 1, 1, width)))


UNKNOWN: dict[str, Callable[[Net, str], str]] = {
    "CumSum": lambda net, x: net.op("CumSum", x, net.number(1)),
    "ArgMax": lambda net, x: net.op("Cast", net.op("ArgMax", x, axis=1), to=11),
    "TopK": lambda net, x: net.op("TopK", x, net.ints(8), outputs=2, axis=1)[0],
    "an input": lambda net, x: net.op("Add", x, net.op("Pad", "x", net.ints(0, 0, 0, 2))),
    "reversed": lambda net, x: net.op(
        "Add", x, net.op("Slice", x, net.ints(-1), net.ints(-100), net.ints(1), net.ints(-1))
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_knows_positions_keeps_them(name: str) -> None:
    net = Net([2, 6])
    x = UNKNOWN[name](net, net.linear("x", 6, 8))
    found = shuffled(net.build(x if name == "ArgMax" else net.linear(x, 8, 3)), image(2, 6))
    assert sizes(found) == []


def test_an_order_must_be_a_permutation() -> None:
    net = Net([2, 6])
    model = capture(net.build(net.linear(net.linear("x", 6, 8), 8, 3)))
    run(pipeline.EXACT_BEFORE, model, Context())
    found = find_couplings(model)
    with pytest.raises(ValueError, match="no permutation"):
        rearrange(found, [(found.sets[0], np.zeros(8, np.int64))])


@pytest.mark.parametrize("broken", ["joined", "nested", "fixed"])
def test_this_test_would_notice_a_coupling_that_is_missed(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsecc.passes.permute import couplings

    follow = couplings.follow

    def forgetful(model: ir.Model) -> object:
        flow = follow(model)
        getattr(flow.labels, broken).clear()
        return flow

    monkeypatch.setattr(couplings, "follow", forgetful)
    net = Net([1, 5, 6])
    q, k, v = (heads(net, net.linear("x", 6, 12), 3, 4, 5) for _ in range(3))
    proto = net.build(net.linear(attention(net, q, k, v, (5, 12)), 12, 6))
    with pytest.raises(AssertionError):
        shuffled(proto, image(1, 5, 6))


BLOCKS = ("residual", "depthwise", "grouped", "gate", "concat", "shuffle", "attention", "flat")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4), st.integers(0, 1000))
def test_drawn_graphs_stay_the_same(blocks: list[str], seed: int) -> None:
    net, wide = Net([1, 3, 4, 4], seed), 8
    x = net.op("Relu", net.conv("x", 3, wide))
    for block in blocks:
        x, wide = grown(net, block, x, wide)
    found = shuffled(net.build(net.conv(x, wide, 4)), image(1, 3, 4, 4), seed)
    assert found.sets


def grown(net: Net, block: str, x: str, wide: int) -> tuple[str, int]:
    """The graph with one more block; its output and width, a multiple of four."""
    if block == "residual":
        inner = net.op("Relu", net.conv(x, wide, 12, 3))
        return net.op("Add", x, net.conv(inner, 12, wide)), wide
    if block == "depthwise":
        return net.op("Sigmoid", net.conv(x, wide, wide, 3, group=wide)), wide
    if block == "grouped":
        return net.op("Relu", net.conv(x, wide, 12, 3, group=4)), 12
    if block == "gate":
        mean = net.op("ReduceMean", x, axes=[2, 3])
        gate = net.conv(net.op("Relu", net.conv(mean, wide, 4)), 4, wide)
        return net.op("Mul", x, net.op("Sigmoid", gate)), wide
    if block == "concat":
        return net.op("Concat", net.conv(x, wide, 4), x, axis=1), wide + 4
    if block == "shuffle":
        x = net.op("Reshape", x, net.ints(1, 4, wide // 4, 4, 4))
        x = net.op("Transpose", x, perm=[0, 2, 1, 3, 4])
        return net.op("Reshape", x, net.ints(1, wide, 4, 4)), wide
    if block == "flat":
        x = net.op("Reshape", x, net.ints(1, wide * 16))
        return net.op("Reshape", net.linear(x, wide * 16, 128), net.ints(1, 8, 4, 4)), 8
    tokens = net.op("Transpose", net.op("Reshape", x, net.ints(1, wide, 16)), perm=[0, 2, 1])
    q, k, v = (heads(net, net.linear(tokens, wide, 8), 2, 4, 16) for _ in range(3))
    x = net.linear(attention(net, q, k, v, (16, 8)), 8, wide)
    x = net.op("Transpose", net.op("Add", tokens, norm(net, x, wide)), perm=[0, 2, 1])
    return net.op("Reshape", x, net.ints(1, wide, 4, 4)), wide
