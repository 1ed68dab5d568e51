"""Lowering: bodies in, notes out, versions that old runtimes read."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

import sparsecc
from sparsecc import ops
from sparsecc.backends.onnxruntime.lower import lower
from sparsecc.capture import capture
from sparsecc.passes.verifier import verify_model
from sparsecc.passes.weights.layers import find_layers
from sparsecc.passes.weights.to_sparse import replace_layer
from tests import small

SECRET = "/home/somebody/secret_project/train.py"
NOTED = """<ir_version: 10, opset_import: ["" : 21], metadata_props: ["exporter": "X"]>
g (float[2, 3] x, bool c) => (float[2, 3] y) {
  h = Relu (x)
  y = If (c) <
    then_branch = t () => (float[2, 3] u) { u = Neg (h) },
    else_branch = e () => (float[2, 3] v) { v = Abs (h) }
  >
}"""


def noted() -> onnx.ModelProto:
    """A model with a stack trace on everything that can carry one."""
    proto = onnx.parser.parse_model(NOTED)
    todo = [proto.graph]
    while todo:
        graph = todo.pop()
        for each in (graph, *graph.node, *graph.input, *graph.output):
            each.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=SECRET)
        todo += [attr.g for node in graph.node for attr in node.attribute if attr.HasField("g")]
    return proto


def test_no_notes_of_exporters_are_left() -> None:
    assert SECRET.encode() in noted().SerializeToString()
    model = ir.from_proto(noted())
    lower(model)
    assert SECRET.encode() not in ir.to_proto(model).SerializeToString()
    assert b"exporter" not in ir.to_proto(model).SerializeToString()


def test_it_says_who_made_it() -> None:
    model = capture(small.mlp())
    lower(model)
    assert (model.producer_name, model.producer_version) == ("sparsecc", sparsecc.__version__)


@pytest.mark.parametrize(
    ("opset", "before", "after"),
    [(11, 4, 8), (17, 8, 8), (21, 10, 10), (21, 13, 10), (22, 11, 10), (23, 11, 11), (24, 12, 12)],
)
def test_ir_versions_are_those_old_runtimes_read(opset: int, before: int, after: int) -> None:
    model = capture(small.mlp())
    model.opset_imports[""], model.ir_version = opset, before
    lower(model)
    assert model.ir_version == after


def test_every_sparse_op_has_its_body_and_no_other() -> None:
    model = capture(small.mlp())
    lower(model)
    assert not model.functions
    for layer in find_layers(model).layers[:1]:
        replace_layer(layer, (4, 1))
    model.opset_imports[ops.DOMAIN] = ops.VERSION
    lower(model)
    assert [key[:2] for key in model.functions] == [(ops.DOMAIN, "SparseMatMul")]
    verify_model(model)
    onnx.checker.check_model(ir.to_proto(model))
