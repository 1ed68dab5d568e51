"""The hash of a model: equal for equal models in any form, different after any edit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from sparsecc.capture import capture
from sparsecc.identity import model_hash

TEXT = """<ir_version: 8, opset_import: ["" : 19, "own" : 1]>
g (float[N, 2000] x, bool c) => (float[N, 2000] y) {
  big = Constant ()
  a = own.shifted <alpha = 0.5> (x)
  b = Add (a, big)
  h = Add (b, w)
  y = If (c) <
    then_branch = t () => (float[N, 2000] u) { u = Add (h, inner) },
    else_branch = e () => (float[N, 2000] v) { v = Neg (h) }
  >
}
<domain: "own", opset_import: ["" : 19]>
shifted <alpha> (x) => (z) {
  k = Constant <value_float: float = @alpha> ()
  z = Add (x, k)
}"""


def array(value: float = 0.0) -> np.ndarray:
    """2000 numbers, the one in the middle not where a printed array shows it."""
    numbers = np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    numbers[1000] += value
    return numbers


def model(big: float = 0, weight: float = 0, inner: float = 0) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(TEXT)
    value = numpy_helper.from_array(array(big), "value")
    proto.graph.node[0].attribute.append(helper.make_attribute("value", value))
    proto.graph.initializer.append(numpy_helper.from_array(array(weight), "w"))
    branch = proto.graph.node[-1].attribute[0].g
    branch.initializer.append(numpy_helper.from_array(array(inner), "inner"))
    return proto


def hash_of(proto: onnx.ModelProto) -> str:
    return model_hash(capture(proto))


def test_a_file_with_and_without_external_data_and_a_message_are_the_same(tmp_path: Path) -> None:
    inline, external = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(model(), inline)
    onnx.save(model(), external, save_as_external_data=True, location="b.data", size_threshold=0)
    hashes = {
        model_hash(capture(form)) for form in (inline, external, model(), ir.from_proto(model()))
    }
    assert len(hashes) == 1


def test_notes_of_exporters_do_not_count() -> None:
    proto = model()
    proto.doc_string = "made on a Tuesday"
    proto.graph.node[1].metadata_props.add(key="stack_trace", value="/home/somebody/train.py")
    assert hash_of(proto) == hash_of(model())


def edit_function(proto: onnx.ModelProto) -> None:
    proto.functions[0].node[1].op_type = "Sub"


def edit_attribute(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].attribute[0].f = 0.25


def edit_reference(proto: onnx.ModelProto) -> None:
    proto.functions[0].attribute[0] = "beta"
    proto.functions[0].node[0].attribute[0].ref_attr_name = "beta"
    proto.graph.node[1].attribute[0].name = "beta"


def edit_branch(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].attribute[1].g.node[0].op_type = "Abs"


def edit_input(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


EDITS = [edit_function, edit_attribute, edit_reference, edit_branch, edit_input]


@pytest.mark.parametrize("edit", EDITS)
def test_any_edit_of_the_graph_is_seen(edit: Callable[[onnx.ModelProto], None]) -> None:
    proto = model()
    edit(proto)
    assert hash_of(proto) != hash_of(model())


@pytest.mark.parametrize("place", ["big", "weight", "inner"])
def test_any_number_is_seen(place: str) -> None:
    """In a long constant, a weight, and a weight of a branch."""
    assert hash_of(model(**{place: 1.0})) != hash_of(model())
