from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sparsecc import ops
from sparsecc.formats.blocks import pack_blocks
from sparsecc.passes.verifier import VerificationError, fingerprint, verify_model

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, 4] y) <float[3, 4] w> { h = MatMul(x, w) y = Relu(h) }"""


def model() -> ir.Model:
    loaded = ir.from_onnx_text(
        TEXT.replace("<float[3, 4] w>", "<float[3, 4] w = {" + "1," * 11 + "1}>")
    )
    for node in loaded.graph:
        node.name = node.op_type
    return loaded


def sparse_model() -> ir.Model:
    loaded = model()
    arrays = ops.packed_arrays(pack_blocks(np.ones((4, 3), "f4"), (2, 1)))
    values = [ops.initializer(n, a) for n, a in {**arrays, "bias": np.zeros(4, "f4")}.items()]
    for value in values:
        loaded.graph.register_initializer(value)
    old = loaded.graph.node(0)
    node = ir.Node(ops.DOMAIN, "SparseMatMul", [old.inputs[0], *values], name="sparse")
    ir.convenience.replace_nodes_and_values(
        loaded.graph, old, [old], [node], old.outputs, node.outputs
    )
    loaded.opset_imports[ops.DOMAIN] = ops.VERSION
    return loaded


def test_sound_models_pass():
    verify_model(model())
    loaded = sparse_model()
    verify_model(loaded)
    ops.attach_functions(loaded)
    verify_model(loaded)


def undefined(m: ir.Model) -> None:
    m.graph.node(0).replace_input_with(0, ir.Value(name="ghost"))


def late(m: ir.Model) -> None:
    first = m.graph.node(0)
    m.graph.remove(first)
    m.graph.append(first)


def nameless(m: ir.Model) -> None:
    m.graph.node(0).name = ""


def same_name(m: ir.Model) -> None:
    m.graph.node(0).name = "Relu"


def same_value_name(m: ir.Model) -> None:
    m.graph.node(0).outputs[0].name = "x"


def no_value_name(m: ir.Model) -> None:
    m.graph.node(0).outputs[0].name = None


def wrong_shape(m: ir.Model) -> None:
    m.graph.initializers["w"].shape = ir.Shape([4, 3])


def wrong_type(m: ir.Model) -> None:
    m.graph.initializers["w"].type = ir.TensorType(ir.DataType.INT8)


def no_data(m: ir.Model) -> None:
    m.graph.initializers["w"].const_value = None


def no_import(m: ir.Model) -> None:
    m.graph.node(1).domain = "elsewhere"


def lost_output(m: ir.Model) -> None:
    m.graph.outputs[0] = ir.Value(name="ghost")


@pytest.mark.parametrize(("damage", "message"), [
    (undefined, "'MatMul': input 'ghost' is not defined"),
    (late, "'Relu': input 'h' is not defined before it"),
    (nameless, "has no name"),
    (same_name, "'Relu': two nodes share this name"),
    (same_value_name, "2 values share the name 'x'"),
    (no_value_name, "a value has no name"),
    (wrong_shape, r"'w': declared \[4,3\], holds \[3,4\]"),
    (wrong_type, "'w': declared INT8, holds FLOAT"),
    (no_data, "'w': the initializer has no data"),
    (no_import, "'Relu': no opset import for domain 'elsewhere'"),
    (lost_output, "graph output 'ghost' is not defined"),
])  # fmt: skip
def test_damage_is_named(damage, message):
    damaged = model()
    damage(damaged)
    with pytest.raises(VerificationError, match=message) as caught:
        verify_model(damaged, after="some-pass")
    assert caught.value.after == "some-pass"


def test_sparse_nodes_obey_their_schema():
    loaded = sparse_model()
    node = loaded.graph.node(0)
    node.replace_input_with(5, loaded.graph.initializers["shape"])
    with pytest.raises(VerificationError, match="'sparse': bias"):
        verify_model(loaded)


def test_every_sparse_op_has_a_body_once_one_has():
    loaded = sparse_model()
    ops.attach_functions(loaded)
    loaded.graph.node(0).op_type = "SparseMatMul_relu"
    with pytest.raises(VerificationError, match="SparseMatMul_relu has no function body"):
        verify_model(loaded)


def test_subgraphs_see_what_came_before_them_and_nothing_else():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[3] x, bool c) => (float[3] y) {
      y = If (c) <
        then_branch = a () => (float[3] t) { t = Relu(x) },
        else_branch = b () => (float[3] e) { e = Exp(x) }
      >
    }"""
    loaded = ir.from_onnx_text(text)
    for number, node in enumerate(loaded.graph.all_nodes()):
        node.name = f"n{number}"
    verify_model(loaded)
    branch = loaded.graph.node(0).attributes["then_branch"].as_graph()
    branch.node(0).replace_input_with(0, loaded.graph.outputs[0])
    with pytest.raises(VerificationError, match="'y' is not defined"):
        verify_model(loaded)


def test_fingerprint_sees_every_change():
    base = fingerprint(model())
    relu_again = model()
    assert fingerprint(relu_again)[1:] == base[1:]
    loaded = model()
    before = fingerprint(loaded)
    assert fingerprint(loaded) == before
    loaded.graph.node(1).outputs[0].shape = ir.Shape([1, 4])
    assert fingerprint(loaded) != before
    before = fingerprint(loaded)
    loaded.graph.initializers["w"].const_value = ir.tensor(np.ones((3, 4), "f4"), name="w")
    assert fingerprint(loaded) != before
