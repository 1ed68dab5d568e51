"""RMSNormalization, RotaryEmbedding and Swish (opsets 23 and 24) in older ops."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from sparsecc.passes.tape import Tape

_BODIES = "sparsecc.lowered"
"""Domain of the functions that exist only while an op is replaced by its body."""


def problem(node: ir.Node) -> str | None:
    """Why the op cannot be decomposed, if so."""
    if any(value is not None and value.dtype is None for value in node.inputs):
        return f"{node.op_type} on inputs of unknown type"
    x = node.inputs[0]
    if node.op_type == "RMSNormalization" and (x is None or x.shape is None):
        return "RMSNormalization on an input of unknown rank"
    return None


def rewrite_rms_norm(model: ir.Model, node: ir.Node) -> None:
    """Write x / √(mean(x²) + ε) · scale, spelt the way ONNX Runtime recognises and merges."""
    tape = Tape(node)
    x, scale = node.inputs
    assert x is not None
    assert x.shape is not None, "checked by `problem`"
    assert x.dtype is not None, "checked by `problem`"
    stash = node.attributes.get_int("stash_type", ir.DataType.FLOAT.value)
    cast = stash != x.dtype.value
    inner = tape.op("Cast", x, to=stash) if cast else x
    precision = np.dtype(ir.DataType(stash).numpy())
    rank, axis = len(x.shape), node.attributes.get_int("axis", -1)
    axes = range(axis % rank, rank)
    square = tape.op("Pow", inner, tape.constant(np.array(2.0, precision)))
    mean = tape.op("ReduceMean", square, tape.ints(*axes), keepdims=1)
    epsilon = np.array(node.attributes.get_float("epsilon", 1e-5), precision)
    root = tape.op("Sqrt", tape.op("Add", mean, tape.constant(epsilon)))
    normal = tape.op("Div", inner, root)
    if cast:
        normal = tape.op("Cast", normal, to=x.dtype.value)
    tape.op("Mul", normal, scale)
    tape.finish()


def rewrite_by_own_body(model: ir.Model, node: ir.Node) -> None:
    """Replace the node by the function body that its ONNX schema brings."""
    opset = model.opset_imports[""]
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    proto = onnx.FunctionProto()
    if schema.has_context_dependent_function:  # type: ignore[attr-defined]
        types = [_type_of(value) for value in node.inputs]
        call = ir.serde.serialize_node(node).SerializeToString()
        proto.ParseFromString(
            schema.get_context_dependent_function(call, types)  # type: ignore[attr-defined]
        )
    else:
        proto.CopyFrom(schema.function_body)
    proto.domain = _BODIES
    del proto.opset_import[:]
    proto.opset_import.append(onnx.helper.make_opsetid("", opset))
    function = ir.serde.deserialize_function(proto)
    model.functions[function.identifier()] = function
    node.domain = _BODIES
    common.InlinePass(lambda each: each.domain == _BODIES)(model)


def _type_of(value: ir.Value | None) -> bytes:
    """The type and shape of an input the way the schema wants them; empty for one left out."""
    proto = onnx.TypeProto()
    if value is not None and value.type is not None:
        ir.serde.serialize_type_into(proto, value.type)
        if value.shape is not None:
            ir.serde.serialize_shape_into(proto, value.shape)
    return bytes(proto.SerializeToString())
