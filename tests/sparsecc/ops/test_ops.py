"""Numpy meaning = FunctionProto body, for every op of the domain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sparsecc import ops
from sparsecc.formats.blocks import BlockWeight, pack_blocks, unpack_blocks


@dataclass(frozen=True)
class Case:
    op_type: str
    call: ops.Call
    output_shape: tuple[int, ...]

    def feeds(self) -> dict[str, np.ndarray]:
        feeds = {"X": self.call.x.astype(np.float32)}
        if self.call.residual is not None:
            feeds["residual"] = self.call.residual.astype(np.float32)
        return feeds

    def model(self, opset: int) -> onnx.ModelProto:
        weight = self.call.weight
        named = {
            "values": weight.values.astype(np.float32),
            "index": weight.index,
            "grid": np.array(weight.grid, np.int64),
            "shape": np.array(weight.shape, np.int64),
            "bias": self.call.bias.astype(np.float32),
        }
        names = ops.input_names(self.op_type)
        node = helper.make_node(
            self.op_type, names, ["Y"], name="layer", domain=ops.DOMAIN, **self.call.attributes
        )
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
            for name, array in self.feeds().items()
        ]
        output = helper.make_tensor_value_info("Y", TensorProto.FLOAT, self.output_shape)
        weights = [numpy_helper.from_array(array, name) for name, array in named.items()]
        return helper.make_model(
            helper.make_graph([node], "case", inputs, [output], weights),
            opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(ops.DOMAIN, 1)],
            functions=[ops.function(self.op_type, opset)],
            ir_version=8,
        )


BLOCKS = [(1, 1), (4, 1), (8, 1), (16, 1), (1, 4)]


def packed_weight(rng, shape, block, density) -> BlockWeight:
    weight = rng.standard_normal(shape)
    keep = rng.random((-(-shape[0] // block[0]), weight.reshape(shape[0], -1).shape[1])) < density
    mask = np.repeat(keep, block[0], axis=0)[: shape[0]]
    return pack_blocks(weight * mask.reshape(shape), block)


def make_case(op_type, rng, weight, x, attributes) -> Case:
    shape = tuple(ops.spec_of(op_type).infer(x.shape, weight.shape, attributes))
    residual = rng.standard_normal(shape) if ops.parse(op_type).residual else None
    bias = rng.standard_normal(weight.shape[0])
    return Case(op_type, ops.Call(x, weight, bias, attributes, residual), shape)


@st.composite
def conv_cases(draw) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    group = draw(st.sampled_from([1, 1, 2]))
    rows, depth = group * draw(st.integers(1, 9)), draw(st.integers(1, 6))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    attributes = {
        "strides": list(draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))),
        "pads": [draw(st.integers(0, 2)) for _ in range(4)],
        "dilations": list(draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))),
        "group": group,
    }
    side = draw(st.tuples(st.integers(5, 10), st.integers(5, 10)))
    x = rng.standard_normal((draw(st.integers(1, 3)), depth * group, *side))
    density = draw(st.sampled_from([0.0, 0.3, 1.0]))
    weight = packed_weight(rng, (rows, *kernel, depth), draw(st.sampled_from(BLOCKS)), density)
    op_type = draw(st.sampled_from([name for name in ops.VARIANTS if "Conv" in name]))
    return make_case(op_type, rng, weight, x, attributes)


@st.composite
def matmul_cases(draw) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    rows, cols = draw(st.integers(1, 33)), draw(st.integers(1, 33))
    lead = draw(st.lists(st.integers(1, 4), max_size=3))
    weight = packed_weight(
        rng, (rows, cols), draw(st.sampled_from(BLOCKS)), draw(st.sampled_from([0.0, 0.3, 1.0]))
    )
    op_type = draw(st.sampled_from([name for name in ops.VARIANTS if "MatMul" in name]))
    return make_case(op_type, rng, weight, rng.standard_normal((*lead, cols)), {})


def assert_close(got: np.ndarray, wanted: np.ndarray) -> None:
    scale = max(1.0, float(np.abs(wanted).max(initial=0)))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * scale)


@given(case=st.one_of(conv_cases(), matmul_cases()), opset=st.sampled_from([11, 13, 17, 21]))
def test_the_body_computes_the_numpy_meaning(case: Case, opset: int) -> None:
    proto = case.model(opset)
    session = ort.InferenceSession(proto.SerializeToString())
    (got,) = session.run(None, case.feeds())
    assert_close(got, ops.evaluate(case.op_type, case.call))


@pytest.mark.parametrize("op_type", ops.VARIANTS)
def test_every_variant_has_body_schema_and_meaning(op_type: str) -> None:
    rng = np.random.default_rng(0)
    conv = op_type.startswith("SparseConv")
    weight = packed_weight(rng, (6, 1, 1, 5) if conv else (6, 5), (4, 1), 0.5)
    x = rng.standard_normal((2, 5, 3, 3) if conv else (2, 3, 5))
    attributes = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1}
    case = make_case(op_type, rng, weight, x, attributes if conv else {})
    proto = case.model(17)
    onnx.checker.check_model(proto)
    (got,) = ort.InferenceSession(proto.SerializeToString()).run(None, case.feeds())
    assert_close(got, ops.evaluate(op_type, case.call))
    schema = ops.schema(op_type)
    assert [parameter.name for parameter in schema.inputs] == ops.input_names(op_type)
    assert set(schema.attributes) == set(case.call.attributes)


def test_the_linear_part_is_a_matrix_product() -> None:
    rng = np.random.default_rng(3)
    weight = packed_weight(rng, (7, 5), (4, 1), 0.5)
    x, bias = rng.standard_normal((2, 5)), rng.standard_normal(7)
    got = ops.evaluate("SparseMatMul_relu", ops.Call(x, weight, bias, {}))
    np.testing.assert_allclose(got, np.maximum(x @ unpack_blocks(weight).T + bias, 0))


def sparse_model() -> ir.Model:
    rng = np.random.default_rng(1)
    case = make_case(
        "SparseMatMul_gelu", rng, packed_weight(rng, (8, 5), (4, 1), 0.5), np.ones((2, 5)), {}
    )
    return ir.from_proto(case.model(17))


def test_only_used_functions_are_attached() -> None:
    model = sparse_model()
    ops.attach_functions(model)
    assert list(model.functions) == [(ops.DOMAIN, "SparseMatMul_gelu", "")]
    model.graph.node(0).op_type = "SparseMatMul"
    ops.attach_functions(model)
    assert list(model.functions) == [(ops.DOMAIN, "SparseMatMul", "")]


def test_shape_inference_keeps_unknown_dimensions() -> None:
    node = sparse_model().graph.node(0)
    assert ops.infer_shape(node, ["batch", None, 5]) == ["batch", None, 8]
    with pytest.raises(ValueError, match="4 features, the weight wants 5"):
        ops.infer_shape(node, [1, 4])


CHANGES = {
    "values": lambda a: a[:-1],
    "index": lambda a: a[::-1].copy(),
    "grid": lambda a: a + 1,
    "shape": lambda a: a * 2,
    "bias": lambda a: a[:-1],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_packed_weight_that_contradicts_itself_is_found(name: str) -> None:
    node = sparse_model().graph.node(0)
    ops.check_node(node)
    position = ops.input_names(node.op_type).index(name)
    array = node.inputs[position].const_value.numpy()
    node.replace_input_with(position, ops.initializer("changed", CHANGES[name](array)))
    with pytest.raises(ValueError):  # noqa: PT011 - one of several texts
        ops.check_node(node)
