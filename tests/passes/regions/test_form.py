"""Regions inside ONNX Runtime: equal to their bodies run without the library, and to the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from sparsecc import ops, targets
from sparsecc.backends.codegen.program import Program, Step
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.capture import capture
from sparsecc.inspection import rewrite
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.regions.form import FormRegions
from sparsecc.passes.verifier import verify_model
from tests import small

Arrays = Mapping[str, NDArray[np.float32]]
TARGET = targets.TARGETS["x86-64"]


@pytest.fixture(scope="module")
def library() -> Path:
    if not targets.runs_here(TARGET):
        pytest.skip("this machine does not run x86-64")
    return build_library(TARGET)


def regions_of(proto: onnx.ModelProto) -> tuple[ir.Model, Context]:
    """The model after sparse ops and regions, with what the region pass left outside."""
    graph, ctx = capture(proto), Context(target=TARGET, verify=True)
    run(pipeline.EXACT_BEFORE, graph, ctx)
    rewrite(graph, TARGET, ctx)
    ops.attach_functions(graph)
    last = Context(target=TARGET)
    run([FormRegions(TARGET)], graph, last)
    return graph, last


def outputs(
    content: bytes, feeds: Arrays, library: Path | None = None
) -> list[NDArray[np.float32]]:
    options = ort.SessionOptions()
    if library is not None:
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(content, options).run(None, dict(feeds))


def check(proto: onnx.ModelProto, feeds: Arrays, library: Path) -> ir.Model:
    """Model, body and region agree; the model with regions is returned."""
    graph, _ = regions_of(proto)
    content = ir.to_proto(graph).SerializeToString()
    wanted = outputs(proto.SerializeToString(), feeds)
    for got in (outputs(content, feeds), outputs(content, feeds, library)):
        for one, other in zip(wanted, got, strict=True):
            assert one.shape == other.shape
            assert np.abs(one - other).max(initial=0) <= 1e-4 * max(1, np.abs(one).max(initial=0))
    return graph


def calls(graph: ir.Model) -> list[ir.Node]:
    return [node for node in graph.graph if ops.is_region(node)]


def network() -> onnx.ModelProto:
    """Every step the pass knows, and a stem without zeros."""
    rng = np.random.default_rng(0)
    weights = {
        "w0": rng.standard_normal((64, 3, 3, 3)).astype(np.float32),
        "w1": sparse(rng, 64, 64, 1, 1),
        "w2": sparse(rng, 64, 64, 3, 3),
        "w3": sparse(rng, 64, 64),
    }
    return text_model(
        HEAD
        + """
        g (float[N, 3, 24, 24] image) => (float[N, 64] y) {
            s = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(image, w0)
            a = Conv<kernel_shape = [1, 1]>(s, w1)
            p = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(a)
            b = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(p, w2)
            c = Relu(b)
            d = Sigmoid(p)
            e = Add(c, d)
            f = GlobalAveragePool(e)
            g = Flatten(f)
            y = Gemm<transB = 1>(g, w3)
        }""",
        weights,
    )


def picture(batch: int = 1) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(batch)
    return {"image": rng.standard_normal((batch, 3, 24, 24)).astype(np.float32)}


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_network_is_one_region_with_its_dense_stem(library: Path, batch: int) -> None:
    graph = check(network(), picture(batch), library)
    assert [node.op_type for node in graph.graph] == ["Region0"]
    _, ctx = regions_of(network())
    assert not ctx.refusals


def sparse(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """A weight with four-row blocks of zeros."""
    weight = rng.standard_normal(shape).astype(np.float32)
    kept = rng.random((shape[0] // 4, *shape[1:])) < 0.3
    return weight * np.repeat(kept, 4, axis=0)


def text_model(text: str, weights: Arrays) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return proto


CAUSAL = "scale = 0.35, left = 2147483647, right = 0, sinks = 0"
HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def test_a_node_in_the_middle_parts_two_regions(library: Path) -> None:
    """The sum must not be joined with what comes before the Softplus: that would be a cycle."""
    rng = np.random.default_rng(0)
    proto = text_model(
        HEAD
        + """
        g (float[N, 64, 16, 16] x) => (float[N, 64, 16, 16] y) {
            a = Conv<kernel_shape = [1, 1]>(x, w1)
            b = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(a, w2)
            c = Softplus(b)
            d = Conv<kernel_shape = [1, 1]>(c, w3)
            y = Add(d, a)
        }""",
        {
            "w1": sparse(rng, 64, 64, 1, 1),
            "w2": sparse(rng, 64, 64, 3, 3),
            "w3": sparse(rng, 64, 64, 1, 1),
        },
    )
    x = rng.standard_normal((3, 64, 16, 16)).astype(np.float32)
    graph = check(proto, {"x": x}, library)
    assert [node.op_type for node in graph.graph if not ops.is_region(node)][-1] != "Add"


def pooled(kind: str, window: str) -> str:
    return (
        HEAD
        + f"""
        g (float[N, 64, H, W] x) => (float[N, 64, P, Q] p, float[N, 64, R, S] y) {{
            a = Conv<kernel_shape = [1, 1]>(x, w)
            b = Relu(a)
            p = {kind}<{window}>(b)
            y = Conv<kernel_shape = [1, 1]>(p, v)
        }}"""
    )


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["MaxPool", "AveragePool"]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_pooling_inside_of_a_region(
    library: Path,
    kind: str,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    seed: int,
    data: st.DataObject,
) -> None:
    """Any window, any size and batch: the same session sees them all."""
    rng = np.random.default_rng(seed)
    pads = [data.draw(st.integers(0, side - 1)) for side in (*kernel, *kernel)]
    window = f"kernel_shape = {list(kernel)}, strides = {list(strides)}, pads = {pads}"
    if kind == "AveragePool":
        window += f", count_include_pad = {data.draw(st.integers(0, 1))}"
    weights = {"w": sparse(rng, 64, 64, 1, 1), "v": sparse(rng, 64, 64, 1, 1)}
    proto = text_model(pooled(kind, window), weights)
    sides = (data.draw(st.integers(4, 20)), data.draw(st.one_of(st.integers(4, 40), st.just(550))))
    size = (data.draw(st.integers(1, 3)), 64, *sides)
    graph = check(proto, {"x": rng.standard_normal(size).astype(np.float32)}, library)
    assert len(graph.graph) == 1


def test_every_attention_of_a_deep_model_is_a_region(library: Path) -> None:
    """One that found no room would run as its body: slower than what it took the place of."""
    nodes, depth = list[str](), 24
    for at in range(depth):
        near = f"sparsecc.BlockSparseAttention <{CAUSAL}> (x{at}, x{at}, x{at})"
        nodes += [f"a{at} = {near}", f"x{at + 1} = Softplus(a{at})"]
    text = f"""<ir_version: 8, opset_import: ["" : 17, "sparsecc" : 1]>
        g (float[1, 2, 80, 8] x0) => (float[1, 2, 80, 8] x{depth}) {{ {" ".join(nodes)} }}"""
    graph = ir.from_proto(text_model(text, {}))
    ops.attach_functions(graph)
    run([ShapeInference(), FormRegions(TARGET)], graph, Context(target=TARGET))
    assert len(calls(graph)) == depth
    content = ir.to_proto(graph).SerializeToString()
    x = np.random.default_rng(0).standard_normal((1, 2, 80, 8)).astype(np.float32)
    (one,), (other,) = (outputs(content, {"x0": x}, each) for each in (None, library))
    assert np.abs(one - other).max() <= 1e-5


def test_dense_models_have_no_region() -> None:
    graph, _ = regions_of(small.mobilenet("dense"))
    assert not calls(graph)


def damaged(content: bytes, change: str) -> bytes:
    """A model whose program or names are not what was saved."""
    proto = onnx.load_from_string(content)
    by_name = {tensor.name: tensor for tensor in proto.graph.initializer}
    tensor = by_name["Region0.names" if change == "names" else "Region0.program"]
    numbers = numpy_helper.to_array(tensor).copy()
    if change == "names":
        numbers = numbers[:-1]
    elif change == "cut":
        numbers = numbers[:-3]
    else:
        numbers[int(change)] = 2**40
    tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
    return proto.SerializeToString()


@pytest.mark.parametrize("change", ["cut", "names", *map(str, range(30))])
def test_a_damaged_program_is_refused_with_the_name_of_the_region(
    library: Path, change: str
) -> None:
    graph, _ = regions_of(network())
    content = damaged(ir.to_proto(graph).SerializeToString(), change)
    with pytest.raises(Exception, match=r"Region0 'region0'.*fix: "):
        outputs(content, picture(), library)


def test_sizes_that_do_not_fit_name_the_layer(library: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": sparse(rng, 64, 64, 1, 1), "v": sparse(rng, 64, 64, 5, 5)}
    proto = text_model(
        HEAD
        + """
        g (float[N, 64, H, W] x) => (float[N, 64, R, S] y) {
            [first] a = Conv<kernel_shape = [1, 1]>(x, w)
            [second] y = Conv<kernel_shape = [5, 5]>(a, v)
        }""".replace("[first] ", "").replace("[second] ", ""),
        weights,
    )
    for node, name in zip(proto.graph.node, ("first", "second"), strict=True):
        node.name = name
    graph, _ = regions_of(proto)
    content = ir.to_proto(graph).SerializeToString()
    reason = r"'first ... second' \(chain\): the padded window does not fit"
    with pytest.raises(Exception, match=reason):
        outputs(content, {"x": np.zeros((1, 64, 4, 4), np.float32)}, library)


def test_the_model_with_regions_is_sound() -> None:
    graph, _ = regions_of(network())
    again = ir.from_proto(ir.to_proto(graph))
    verify_model(again, after="form-regions")


def test_a_program_numbers_values_in_the_order_they_are_made() -> None:
    first = Step("activation", "one", ("x",), ("a",), (), (1,))
    second = Step("add", "two", ("a", "x"), ("y",), (), (0,))
    program = Program(("x",), ("y",), (first, second))
    numbers = program.encode().tolist()
    assert numbers[2:7] == [3, 1, 1, 2, 2]  # values, inputs, outputs, steps, the output
    assert numbers[7 + 1 : 7 + 5] == [1, 1, 0, 1]
    assert program.names().tobytes() == b"one\0two\0"
