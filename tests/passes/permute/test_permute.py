from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from sparsecc.formats.patterns import Pattern
from sparsecc.passes.base import Context
from sparsecc.passes.permute.permute import NO_GAIN, NOT_FREE, Rearranged, permute_model
from sparsecc.passes.weights.layers import find_layers, matrix
from sparsecc.quality.calibration import load_calibration
from sparsecc.search.plan import Choice
from tests.passes.permute.graphs import Net, canonical

PATTERNS = ("4x1", "1x4", "4x4", "2:4", "16x1")


def choices(model: ir.Model, pattern: str, method: str = "magnitude") -> dict[str, Choice]:
    choice = Choice(pattern=Pattern.parse(pattern), sparsity=0.5, method=method)
    return {layer.name: choice for layer in find_layers(model).layers}


def network(seed: int = 0) -> onnx.ModelProto:
    """Convolutions, a grouped one, a residual, an MLP behind a flatten."""
    net = Net([1, 3, 4, 4], seed)
    x = net.op("Relu", net.conv("x", 3, 32))
    x = net.op("Add", x, net.conv(net.op("Relu", net.conv(x, 32, 64, 3)), 64, 32))
    x = net.op("Relu", net.conv(x, 32, 32, 3, group=2))
    x = net.op("Flatten", x, axis=1)
    x = net.op("Gemm", x, net.weight(64, 512), net.weight(64), transB=1)
    return net.build(net.linear(net.op("Relu", x), 64, 8))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_keeps_the_answer_and_more_of_the_energy(pattern: str) -> None:
    proto, model = network(), canonical(network())
    x = np.random.default_rng(1).normal(0, 1, (1, 3, 4, 4))
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x})
    found = permute_model(model, choices(model, pattern), None, Context())
    assert len(found) >= 2
    assert np.mean([each.after - each.before for each in found.values()]) > 0.005
    (got,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.sampled_from(PATTERNS))
def test_what_it_says_is_what_the_new_weights_keep(seed: int, pattern: str) -> None:
    from sparsecc.formats.patterns import mask_from_scores

    model = canonical(network(seed))
    found = permute_model(model, choices(model, pattern), None, Context(), effort=10**7)
    for layer in find_layers(model).layers:
        if layer.name in found:
            energy = np.square(matrix(layer))
            mask = mask_from_scores(energy, Pattern.parse(pattern), 0.5)
            kept = energy[mask].sum() / energy.sum()
            assert found[layer.name].after == pytest.approx(kept, rel=1e-9)


def one_head(width: int) -> onnx.ModelProto:
    """Attention of one head whose queries, keys and values are one product."""
    net = Net([1, 6, 24])
    x = net.op("MatMul", "x", net.weight(24, 3 * width))
    parts = net.ints(width, width, width)
    q, k, v = net.op("Split", x, parts, outputs=3, axis=-1)
    seen = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    return net.build(net.linear(net.op("MatMul", seen, v), width, 24))


@pytest.mark.parametrize(
    ("width", "pattern"), [(32, "4x1"), (32, "16x1"), (15, "4x1"), (30, "4x1")]
)
def test_queries_and_keys_of_one_weight_move_together(width: int, pattern: str) -> None:
    """They are two copies of the same channels, and blocks may cut them in two ways."""
    proto, model = one_head(width), canonical(one_head(width))
    x = np.random.default_rng(1).normal(0, 1, (1, 6, 24))
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x})
    found = permute_model(model, choices(model, pattern), None, Context())
    assert all(each.after > each.before for each in found.values())
    assert found or width == 15
    (got,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())


def test_layers_that_gain_nothing_have_a_reason() -> None:
    net = Net([2, 32])
    proto = net.build(net.linear(net.op("Relu", net.linear("x", 32, 32)), 32, 32))
    ctx, model = Context(), canonical(proto)
    found = permute_model(model, choices(model, "4x1"), None, ctx)
    first, last = (layer.name for layer in find_layers(model).layers)
    assert set(found) == {first}
    assert [(each.node, each.reason) for each in ctx.refusals] == [(last, NOT_FREE)]
    again = Context()
    assert not permute_model(model, choices(model, "4x1"), None, again, effort=0)
    assert (first, NO_GAIN) in [(each.node, each.reason) for each in again.refusals]


def test_blocks_of_zeros_that_are_there_stay_together() -> None:
    model = canonical(network())
    before = {layer.name: matrix(layer) for layer in find_layers(model).layers}
    asked = choices(model, "4x1", "existing")
    last = list(asked)[-2]
    asked[last] = Choice(pattern=Pattern.parse("4x1"), sparsity=0.5, method="magnitude")
    assert set(permute_model(model, asked, None, Context())) == {last}
    for layer in find_layers(model).layers:
        if asked[layer.name].method == "existing" and layer.name != list(asked)[-1]:
            assert np.array_equal(matrix(layer), before[layer.name])


def test_unstructured_zeros_need_no_order() -> None:
    model = canonical(network())
    assert permute_model(model, choices(model, "unstructured"), None, Context()) == {}


def test_data_say_which_weights_matter() -> None:
    net = Net(["n", 32])
    proto = net.build(net.linear(net.op("Relu", net.linear("x", 32, 32)), 32, 8))
    x = np.random.default_rng(0).normal(0, 1, (400, 32)) * np.logspace(0, -3, 32)
    plain, judged = canonical(proto), canonical(proto)
    data = load_calibration({"x": x}, judged)
    one = permute_model(plain, choices(plain, "4x1"), None, Context())
    other = permute_model(judged, choices(judged, "4x1"), data, Context())
    (name,) = one
    assert other[name].before > one[name].before + 0.05  # a few inputs hold nearly all
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x[:3]})
    (got,) = ReferenceEvaluator(ir.to_proto(judged)).run(None, {"x": x[:3]})
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())


def test_the_note_says_both_shares() -> None:
    assert str(Rearranged(0.75, 0.81)) == (
        "channels in another order: zeros keep 81.0% of what counts, not 75.0%"
    )
