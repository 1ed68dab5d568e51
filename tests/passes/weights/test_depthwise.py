"""Depthwise convolutions: taken into the library only beside sparse ones, and exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from sparsecc import ops, targets
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.backends.onnxruntime.lower import lower
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.errors import TargetError
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights.depthwise import Depthwise
from sparsecc.passes.weights.to_dense import twin_of
from tests import small
from tests.passes.weights.prepared import with_sparse

RNG = np.random.default_rng(0)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def library() -> Path:
    try:
        return build_library(targets.get("native"))
    except TargetError as error:
        pytest.skip(str(error))


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def pointwise(rows: int, cols: int) -> np.ndarray:
    """A 1×1 weight whose rows of four share their zeros."""
    keep = (np.arange(cols) + np.arange(-(-rows // 4))[:, None]) % 3 == 0
    return random(rows, cols, 1, 1) * np.repeat(keep, 4, axis=0)[:rows, :, None, None]


def chain(*middle: onnx.NodeProto, weights=None, channels=16, side=9, batch=1) -> onnx.ModelProto:
    """x → pointwise "before" (a) → the nodes, a to b → pointwise "after" (y)."""
    nodes = [
        helper.make_node("Conv", ["x", "before.w", "before.b"], ["a"], "before"),
        *middle,
        helper.make_node("Conv", ["b", "after.w"], ["y"], "after"),
    ]
    given = {
        "before.w": pointwise(channels, channels),
        "before.b": random(channels),
        "after.w": pointwise(channels, channels),
        **(weights or {}),
    }
    shapes = {"x": [batch, channels, side, side]}, {"y": [batch, channels, None, None]}
    return small.model(nodes, *shapes, given)


def depthwise(source="a", target="b", weight="dw.w", bias=None, channels=16, name="dw", **more):
    names = [source, weight] if bias is None else [source, weight, bias]
    return helper.make_node("Conv", names, [target], name, group=channels, **more)


def rewritten(proto: onnx.ModelProto, *sparse: str) -> tuple[ir.Model, Depthwise, Context]:
    """The model with the named convolutions sparse, then the pass."""
    model, ctx = with_sparse(proto, *sparse)
    each = Depthwise()
    run([each], model, ctx)
    return model, each, ctx


def answers(proto: onnx.ModelProto, model: ir.Model, library: Path, x: np.ndarray):
    """Of stock ONNX Runtime on the user's model, of the library, of the bodies and of the twin."""
    stock = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    twin = ir.to_proto(twin_of(model)).SerializeToString()
    run([*pipeline.EXACT_AFTER], model, Context(verify=True))
    lower(model)
    lowered = ir.to_proto(model).SerializeToString()
    sessions = [open_session(lowered, library=library), open_session(lowered), open_session(twin)]
    return [np.asarray(session.run(None, {"x": x})[0]) for session in (stock, *sessions)]


ACTIVATIONS = {
    "none": [],
    "relu": [helper.make_node("Relu", ["d"], ["b"], "act")],
    "hardswish": [helper.make_node("HardSwish", ["d"], ["b"], "act")],
}


@given(data=st.data())
@settings(max_examples=30)
def test_it_computes_what_the_dense_convolution_does(library: Path, data: st.DataObject) -> None:
    channels = data.draw(st.integers(3, 40), "channels")
    kernel = data.draw(st.sampled_from([3, 5, 7]), "kernel")
    pads = data.draw(st.lists(st.integers(0, kernel - 1), min_size=4, max_size=4), "pads")
    side = data.draw(st.integers(kernel, 24), "side")
    batch, act = data.draw(st.integers(1, 3)), data.draw(st.sampled_from(sorted(ACTIVATIONS)))
    node = depthwise(
        target="d" if ACTIVATIONS[act] else "b",
        bias="dw.b" if data.draw(st.booleans(), "bias") else None,
        channels=channels,
        kernel_shape=[kernel, kernel],
        strides=data.draw(st.lists(st.integers(1, 2), min_size=2, max_size=2), "strides"),
        pads=pads,
    )
    weights = {"dw.w": random(channels, 1, kernel, kernel), "dw.b": random(channels)}
    proto = chain(
        node, *ACTIVATIONS[act], weights=weights, channels=channels, side=side, batch=batch
    )
    model, each, _ = rewritten(proto, "before", "after")
    assert each.replaced == ["dw"]
    stock, *others = answers(proto, model, library, random(batch, channels, side, side))
    for other in others:
        assert np.abs(other - stock).max() <= TOLERANCE * max(1e-6, np.abs(stock).max())


@pytest.mark.parametrize("dilation", [1, 2])
def test_dilations(library: Path, dilation: int) -> None:
    node = depthwise(kernel_shape=[3, 3], dilations=[dilation] * 2, pads=[1, 2, 0, 1])
    proto = chain(node, weights={"dw.w": random(16, 1, 3, 3)})
    model, each, _ = rewritten(proto, "after")
    assert each.replaced == ["dw"]
    stock, *others = answers(proto, model, library, random(1, 16, 9, 9))
    for other in others:
        np.testing.assert_allclose(other, stock, rtol=0, atol=TOLERANCE * np.abs(stock).max())


@pytest.mark.parametrize("sparse", [("before",), ("after",), ("before", "after")])
def test_one_sparse_neighbour_is_enough(sparse: tuple[str, ...]) -> None:
    proto = chain(depthwise(), weights={"dw.w": random(16, 1, 3, 3)})
    model, each, ctx = rewritten(proto, *sparse)
    assert each.replaced == ["dw"]
    node = next(node for node in model.graph if node.name == "dw")
    assert (node.op_type, node.attributes["group"].as_int()) == ("SparseConv", 16)
    assert not [refusal for refusal in ctx.refusals if refusal.pass_name == "depthwise"]


def test_chains_are_followed_and_activations_looked_through() -> None:
    nodes = [
        helper.make_node("HardSwish", ["a"], ["a1"], "act1"),
        depthwise("a1", "c"),
        helper.make_node("Relu", ["c"], ["c1"], "act2"),
        depthwise("c1", "b", name="dw2"),
    ]
    _, each, _ = rewritten(chain(*nodes, weights={"dw.w": random(16, 1, 3, 3)}), "before")
    assert each.replaced == ["dw", "dw2"]


def test_without_a_sparse_neighbour_it_is_left_with_the_reason() -> None:
    proto = chain(depthwise(), weights={"dw.w": random(16, 1, 3, 3)})
    model, each, ctx = rewritten(proto)
    assert each.replaced == []
    (refusal,) = (each for each in ctx.refusals if each.pass_name == "depthwise")
    assert (refusal.node, refusal.reason) == ("dw", "no sparse convolution beside it")
    assert not any(ops.is_sparse(node) for node in model.graph)


def test_something_in_between_is_no_neighbour() -> None:
    nodes = [helper.make_node("MaxPool", ["a"], ["p"], "pool", kernel_shape=[2, 2]), depthwise("p")]
    _, each, ctx = rewritten(chain(*nodes, weights={"dw.w": random(16, 1, 3, 3)}), "before")
    assert each.replaced == []
    assert "no sparse convolution" in ctx.refusals[-1].reason


@pytest.mark.parametrize(
    ("weight", "groups"),
    [(random(32, 1, 3, 3), 16), (random(16, 2, 3, 3), 8), (random(16, 16, 3, 3), 1)],
    ids=["multiplier", "grouped", "ordinary"],
)
def test_other_convolutions_are_not_its_business(weight: np.ndarray, groups: int) -> None:
    nodes = [
        helper.make_node("Conv", ["a", "dw.w"], ["d"], "dw", group=groups, pads=[1] * 4),
        helper.make_node("Slice", ["d", "zero", "sixteen", "one"], ["b"], "cut"),
    ]
    cut = {name: np.array([n], np.int64) for name, n in (("zero", 0), ("sixteen", 16), ("one", 1))}
    _, each, ctx = rewritten(chain(*nodes, weights={"dw.w": weight} | cut), "before", "after")
    assert each.replaced == []
    assert not [refusal for refusal in ctx.refusals if refusal.pass_name == "depthwise"]


def test_a_bias_that_is_computed_is_kept() -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["bias"], "mean", axes=[0, 2, 3], keepdims=0),
        depthwise(bias="bias"),
    ]
    model, each, ctx = rewritten(chain(*nodes, weights={"dw.w": random(16, 1, 3, 3)}), "before")
    assert each.replaced == []
    assert ("dw", "bias is not constant") in {(r.node, r.reason) for r in ctx.refusals}
    assert next(node for node in model.graph if node.name == "dw").op_type == "Conv"


def test_a_convolution_in_a_branch_stays_with_its_branch() -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            [depthwise("a", name, name=f"{name}.dw", pads=[1] * 4)],
            name,
            [],
            [helper.make_tensor_value_info(name, 1, None)],
        )
        for name in ("then", "else")
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], "sum", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"], "positive"),
        helper.make_node("If", ["positive"], ["b"], "branch", **branches),
    ]
    weights = {"dw.w": random(16, 1, 3, 3), "zero": np.array(0, np.float32)}
    model, each, _ = rewritten(chain(*nodes, weights=weights), "before", "after")
    assert each.replaced == []
    assert not any(ops.is_sparse(node) for node in twin_of(model).graph.all_nodes())
