"""A model without some channels is the model with these channels masked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from sparsecc.errors import PlanError
from sparsecc.formats.patterns import Whole
from sparsecc.passes.base import Context
from sparsecc.passes.remove.remove import Removed, remove_planned, remove_share, to_go
from sparsecc.passes.weights.layers import find_layers
from tests.passes.permute.graphs import Net, canonical

Gate = Callable[[str, int, int], str]
"""(value, number of the set, axes behind that of the channels) → the value, masked."""
Maker = Callable[[Net, Gate], str]


def build(maker: Maker, shape: Any, gone: Mapping[int, tuple[int, int]] | Any = None) -> Any:
    """A network; ``gone``: number of the set → (how many units, which are masked)."""
    net = Net(shape)

    def gate(value: str, number: int, behind: int) -> str:
        if not gone:
            return value
        units, masked = gone[number]
        name = f"mask{len(net.nodes)}"
        mask = np.ones(units)
        mask[list(masked)] = 0
        net.weights[name] = mask.reshape(-1, *(1,) * behind)
        return str(net.op("Mul", value, name))

    return net.build(maker(net, gate))


def answer(model: Any, x: Any) -> Any:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return ReferenceEvaluator(proto).run(None, {"x": x})[0]


def mlp(net: Net, gate: Gate) -> str:
    x = gate(net.op("Relu", net.linear("x", 12, 20)), 0, 0)
    x = gate(net.op("Tanh", net.linear(x, 20, 32)), 1, 0)
    return net.linear(x, 32, 5)


def gated(net: Net, gate: Gate) -> str:
    up, down = net.linear("x", 12, 32), net.linear("x", 12, 32)
    x = gate(net.op("Mul", up, net.op("Sigmoid", down)), 0, 0)
    return net.op("Add", net.linear(x, 32, 12), "x")


def depthwise(net: Net, gate: Gate) -> str:
    """Convolution, batch norm, depthwise, as in a MobileNet; then a flatten."""
    x = net.op("Conv", "x", net.weight(16, 3, 3, 3), pads=[1] * 4)
    moments = [net.weight(16) for _ in range(3)]
    net.weights["variance"] = np.linspace(0.5, 2, 16)
    x = net.op("Clip", net.op("BatchNormalization", x, *moments, "variance"), net.weight(), "")
    x = gate(net.op("Relu", net.conv(gate(x, 0, 2), 16, 16, 3, group=16)), 0, 2)
    x = gate(net.op("Relu", net.conv(x, 16, 24)), 1, 2)
    x = net.op("Flatten", net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), axis=1)
    return net.op("Gemm", x, net.weight(6, 24 * 4), net.weight(6), transB=1)


def residual(net: Net, gate: Gate) -> str:
    """The stream of a ResNet and what is inside of its blocks."""
    x = gate(net.op("Relu", net.conv("x", 3, 16, 3)), 0, 2)
    for number in (1, 2):
        inner = gate(net.op("Relu", net.conv(x, 16, 24)), number, 2)
        x = gate(net.op("Relu", net.op("Add", x, net.conv(inner, 24, 16, 3))), 0, 2)
    x = net.op("Squeeze", net.op("GlobalAveragePool", x), net.ints(2, 3))
    return net.linear(x, 16, 4)


def squeeze_excite(net: Net, gate: Gate) -> str:
    x = gate(net.op("Relu", net.conv("x", 3, 32)), 0, 2)
    mean = net.op("GlobalAveragePool", x)
    inner = gate(net.op("Relu", net.conv(mean, 32, 8)), 1, 2)
    factor = net.op("Sigmoid", net.conv(inner, 8, 32))
    return net.conv(gate(net.op("Mul", x, factor), 0, 2), 32, 4)


def grouped(net: Net, gate: Gate) -> str:
    """A ResNeXt's block: of a grouped convolution whole groups go."""
    x = net.op("Relu", net.conv(net.conv("x", 3, 24), 24, 24, 3, group=6))
    parts = gate(net.op("Reshape", x, net.ints(1, 6, 4, 4, 4)), 0, 3)
    return net.conv(net.op("Reshape", parts, net.ints(1, 24, 4, 4)), 24, 4)


def beside(net: Net, gate: Gate) -> str:
    """Two branches side by side, a split and a slice of channels, and a resize by sizes."""
    one, two = gate(net.conv("x", 3, 16), 0, 2), gate(net.conv("x", 3, 16), 1, 2)
    x = net.op("Concat", one, two, axis=1)
    x = net.op("Resize", x, "", "", net.ints(1, 32, 8, 8), mode="nearest")
    return net.conv(x, 32, 4)


NETS: dict[str, tuple[Maker, tuple[int, ...], int]] = {
    "mlp": (mlp, (3, 12), 2),
    "gated": (gated, (3, 12), 1),
    "depthwise": (depthwise, (1, 3, 4, 4), 2),
    "residual": (residual, (1, 3, 4, 4), 3),
    "squeeze and excite": (squeeze_excite, (1, 3, 4, 4), 2),
    "grouped": (grouped, (1, 3, 4, 4), 1),
    "beside": (beside, (1, 3, 4, 4), 2),
}
"""Network → how it is built, its input's shape, how many sets of channels it has."""


def removed(model: ir.Model, kind: Whole, share: float, **more: Any) -> Removed:
    return remove_share(model, kind, share, None, Context(), **more)


def masks(found: Removed, order: list[int] | None = None) -> dict[int, tuple[int, Any]]:
    order = order or list(range(len(found.sets)))
    return {at: (each.units, each.gone) for at, each in zip(order, found.sets, strict=True)}


@pytest.mark.parametrize("name", NETS)
def test_what_is_left_computes_what_the_masked_model_does(name: str) -> None:
    maker, shape, sets = NETS[name]
    model = canonical(build(maker, shape))
    before = sum(layer.rows * layer.cols for layer in find_layers(model).layers)
    found = removed(model, "channels", 0.4)
    assert len(found.sets) == sets
    x = np.random.default_rng(1).normal(0, 1, shape)
    named = {each.name: each for each in found.sets}
    assert len(named) == sets
    wanted = answer(build(maker, shape, masks(found)), x)
    np.testing.assert_allclose(answer(model, x), wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())
    after = sum(layer.rows * layer.cols for layer in find_layers(model).layers)
    assert after < 0.8 * before
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def attention(heads: int, groups: int, features: int = 4) -> Maker:
    """Attention whose query heads share keys and values in groups."""
    width, per = heads * features, heads // groups

    def make(net: Net, gate: Gate) -> str:
        q = net.linear("x", 12, width)
        k, v = (net.linear("x", 12, groups * features) for _ in range(2))
        q = net.op("Reshape", q, net.ints(1, 5, groups, per, features))
        q = net.op("Transpose", q, perm=[0, 2, 3, 1, 4])
        k, v = (net.op("Reshape", each, net.ints(1, 5, groups, 1, features)) for each in (k, v))
        k = net.op("Transpose", k, perm=[0, 2, 3, 4, 1])
        v = net.op("Transpose", v, perm=[0, 2, 3, 1, 4])
        scores = net.op("Softmax", net.op("MatMul", q, k), axis=-1)
        x = gate(net.op("MatMul", scores, v), 0, 3)
        x = net.op("Transpose", x, perm=[0, 3, 1, 2, 4])
        return net.linear(net.op("Reshape", x, net.ints(1, 5, width)), width, 12)

    return make


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 3)])
def test_whole_heads_and_groups_go(heads: int, groups: int) -> None:
    maker, shape = attention(heads, groups), (1, 5, 12)
    model = canonical(build(maker, shape))
    found = removed(model, "heads", 0.5)
    (one,) = found.sets
    assert one.units == groups
    assert len(one.gone) == groups // 2
    x = np.random.default_rng(2).normal(0, 1, shape)
    wanted = answer(build(maker, shape, masks(found)), x)
    np.testing.assert_allclose(answer(model, x), wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(0, 99), st.floats(0.1, 0.9), st.booleans())
def test_small_chains(depth: int, seed: int, share: float, add: bool) -> None:
    rng = np.random.default_rng(seed)
    widths = rng.integers(3, 30, depth)
    groups = rng.random(depth) < 0.5

    def maker(net: Net, gate: Gate) -> str:
        x, before = "x", 3
        for number, width in enumerate(int(each) for each in widths):
            y = gate(net.op("Relu", net.conv(x, before, width, 3)), number, 2)
            if groups[number]:
                y = gate(net.conv(y, width, width, 3, group=width), number, 2)
            x = net.op("Add", y, gate(net.conv(x, before, width), number, 2)) if add else y
            before = width
        return net.conv(x, before, 2)

    shape = (1, 3, 3, 3)
    model = canonical(build(maker, shape))
    try:
        found = removed(model, "channels", share)
    except PlanError:
        assert all(to_go(int(width), share, "channels") == 0 for width in widths)
        return
    gone = {number: (int(width), ()) for number, width in enumerate(widths)}
    numbers = [n for n, width in enumerate(widths) if to_go(int(width), share, "channels")]
    x = rng.normal(0, 1, shape)
    wanted = answer(build(maker, shape, gone | masks(found, numbers)), x)
    np.testing.assert_allclose(answer(model, x), wanted, rtol=0, atol=1e-11 * np.abs(wanted).max())


def test_a_plan_removes_the_same_again() -> None:
    maker, shape, _ = NETS["residual"]
    model, again = (canonical(build(maker, shape)) for _ in range(2))
    found = removed(model, "channels", 0.5)
    assert remove_planned(again, found.sets, None, Context()).sets == found.sets
    assert ir.to_proto(again) == ir.to_proto(model)


def test_a_plan_for_another_model() -> None:
    found = removed(canonical(build(mlp, (3, 12))), "channels", 0.5)
    with pytest.raises(PlanError, match=r"removes 10 of 20 channels at .* may go"):
        remove_planned(canonical(build(gated, (3, 12))), found.sets[:1], None, Context())


def test_layers_that_are_to_stay_keep_their_channels() -> None:
    model = canonical(build(mlp, (3, 12)))
    first = find_layers(model).layers[0].name
    found = removed(model, "channels", 0.5, stays=lambda name: name == first)
    assert [each.units for each in found.sets] == [32]
    with pytest.raises(PlanError, match="all 2 sets are of layers that are to stay dense"):
        removed(canonical(build(mlp, (3, 12))), "channels", 0.5, stays=lambda _: True)


def test_a_share_of_which_nothing_goes() -> None:
    with pytest.raises(PlanError, match=r"0.02 is too small .* 2 sets has 32, and multiples of 8"):
        removed(canonical(build(mlp, (3, 12))), "channels", 0.02)


def test_parts_of_what_goes_whole_are_not_told_to_stay() -> None:
    ctx = Context()
    remove_share(canonical(build(attention(4, 4), (1, 5, 12))), "heads", 0.5, None, ctx)
    assert not ctx.refusals
    remove_share(canonical(build(NETS["grouped"][0], (1, 3, 4, 4))), "channels", 0.5, None, ctx)
    assert not ctx.refusals


def test_channels_that_a_norm_compares_stay() -> None:
    def maker(net: Net, gate: Gate) -> str:
        x = net.linear("x", 12, 32)
        x = net.op("LayerNormalization", x, net.weight(32), net.weight(32), axis=-1)
        return net.linear(x, 32, 4)

    with pytest.raises(PlanError, match="depends on the others"):
        removed(canonical(build(maker, (3, 12))), "channels", 0.5)


def test_a_model_without_heads() -> None:
    with pytest.raises(PlanError, match="no heads can be removed"):
        removed(canonical(build(mlp, (3, 12))), "heads", 0.5)


@pytest.mark.parametrize(
    ("count", "share", "kind", "gone"),
    [
        (12, 0.25, "heads", 3),
        (12, 0.99, "heads", 11),
        (32, 0.3, "channels", 8),
        (1536, 0.25, "channels", 384),
        (10, 0.3, "channels", 3),
        (2, 0.9, "channels", 1),
    ],
)
def test_how_many_go(count: int, share: float, kind: Whole, gone: int) -> None:
    assert to_go(count, share, kind) == gone
