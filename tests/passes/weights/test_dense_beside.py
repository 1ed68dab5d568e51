"""Convolutions without zeros: taken into the library only beside sparse ones, and exactly."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from sparsecc import ops, targets
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights.dense_beside import DenseBeside
from tests import small
from tests.passes.weights.prepared import with_sparse

TARGET = targets.TARGETS["x86-64"]
SIDE = 32


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


STEM_WEIGHT, NEXT = random(16, 3, 3, 3), random(8, 16, 1, 1)


def conv(name: str, source: str, target: str, *more: str, **attributes) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, f"{name}.w", *more], [target], name, **attributes)


def network(*nodes: onnx.NodeProto, output: str = "y", batch: int | str = 1, **weights):
    """A model whose image ``x`` has three channels."""
    named = {f"{name}.w": weight for name, weight in weights.items()}
    shapes = {"x": [batch, 3, SIDE, SIDE]}, {output: [batch, None, None, None]}
    return small.model(nodes, *shapes, named)


def rewritten(proto: onnx.ModelProto, *sparse: str) -> tuple[ir.Model, DenseBeside, Context]:
    """The model with the named convolutions sparse, then the pass."""
    model, ctx = with_sparse(proto, *sparse)
    each = DenseBeside(TARGET)
    run([each], model, ctx)
    return model, each, ctx


def reasons(ctx: Context) -> dict[str, str]:
    return {r.node: r.reason for r in ctx.refusals if r.pass_name == DenseBeside.name}


STEM = conv("stem", "x", "a", strides=[2, 2], pads=[1, 1, 1, 1])
POOL = helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[3, 3], strides=[2, 2])


@pytest.mark.parametrize("between", [[], [helper.make_node("Relu", ["a"], ["r"], "relu"), POOL]])
def test_a_stem_before_a_sparse_layer_joins_it(between) -> None:
    source = "p" if between else "a"
    proto = network(
        STEM,
        *between,
        conv("next", source, "y"),
        stem=random(16, 3, 3, 3),
        next=random(32, 16, 1, 1),
    )
    model, each, ctx = rewritten(proto, "next")
    assert each.replaced == ["stem"]
    assert not reasons(ctx)
    stem = next(node for node in model.graph if node.name == "stem")
    assert (stem.op_type, ops.read_packed(stem).block) == ("SparseConv", (16, 1))


def test_what_feeds_a_layer_that_joined_joins_too() -> None:
    layers = [STEM, conv("two", "a", "b", pads=[1, 1, 1, 1]), conv("three", "b", "y")]
    weights = {
        "stem": random(16, 3, 3, 3),
        "two": random(16, 16, 3, 3),
        "three": random(8, 16, 1, 1),
    }
    _, each, _ = rewritten(network(*layers, **weights), "three")
    assert each.replaced == ["two", "stem"]


def test_a_layer_alone_stays_and_says_why() -> None:
    proto = network(STEM, conv("next", "a", "y"), stem=STEM_WEIGHT, next=NEXT)
    _, each, ctx = rewritten(proto)
    assert not each.replaced
    assert reasons(ctx) == dict.fromkeys(("stem", "next"), "no sparse convolution beside it")


def test_a_softplus_between_keeps_it_alone() -> None:
    middle = helper.make_node("Softplus", ["a"], ["b"], "softplus")
    proto = network(STEM, middle, conv("next", "b", "y"), stem=STEM_WEIGHT, next=NEXT)
    _, each, ctx = rewritten(proto, "next")
    assert not each.replaced
    assert reasons(ctx) == {"stem": "no sparse convolution beside it"}


def test_outputs_that_fill_no_block_stay() -> None:
    proto = network(STEM, conv("next", "a", "y"), stem=random(6, 3, 3, 3), next=random(8, 6, 1, 1))
    _, each, ctx = rewritten(proto, "next")
    assert not each.replaced
    assert reasons(ctx) == {"stem": "outputs are not a multiple of 4"}


@settings(max_examples=20)
@given(data=st.data())
def test_it_computes_what_the_convolution_did(data: st.DataObject) -> None:
    kernel = data.draw(st.tuples(*[st.integers(1, 5)] * 2))
    outputs = 4 * data.draw(st.integers(1, 10))
    window = {
        "strides": list(data.draw(st.tuples(*[st.integers(1, 3)] * 2))),
        "pads": [data.draw(st.integers(0, 2)) for _ in range(4)],
        "dilations": list(data.draw(st.tuples(*[st.integers(1, 2)] * 2))),
    }
    weights = {"stem": random(outputs, 3, *kernel), "next": random(8, outputs, 1, 1)}
    proto = network(conv("stem", "x", "a", **window), conv("next", "a", "y"), batch="N", **weights)
    model, each, _ = rewritten(proto, "next")
    assert each.replaced == ["stem"]
    ops.attach_functions(model)
    x = random(data.draw(st.integers(1, 3)), 3, SIDE, SIDE)
    wanted, got = (
        ort.InferenceSession(content.SerializeToString()).run(None, {"x": x})[0]
        for content in (proto, ir.to_proto(model))
    )
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max()))
