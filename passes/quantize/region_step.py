"""The step of a region that computes an eight-bit op, or what leads to and from one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsecc.backends.codegen.program import Step
from sparsecc.ops import int8
from sparsecc.passes import edit

_RANK = 4


def int8_step(node: ir.Node) -> Step | None:
    """The step of an op of ``sparsecc.ops.int8``, or of a QuantizeLinear or DequantizeLinear.

    None for every other node, and for those two where they concern anything but unsigned bytes of
    images with one scale.
    """
    if node.domain == int8.DOMAIN:
        return _layer(node)
    if edit.is_op(node, "QuantizeLinear", "DequantizeLinear"):
        return _border(node)
    return None


def bits(number: float) -> int:
    """A float32 as an attribute carries it."""
    return int(np.float32(number).view(np.uint32))


def _layer(node: ir.Node) -> Step:
    names = [str(value.name) for value in node.inputs if value is not None]
    data = 2 if node.op_type == "Add" else 1
    attributes: list[int] = []
    for name in int8.ATTRIBUTES[node.op_type]:
        attribute = node.attributes[name]
        if name == "channels":
            continue  # the weight says it
        if attribute.type == ir.AttributeType.FLOAT:
            attributes.append(bits(attribute.as_float()))
        elif attribute.type == ir.AttributeType.INTS:
            attributes += attribute.as_ints()
        else:
            attributes.append(attribute.as_int())
    return _step(f"int8_{node.op_type.lower()}", node, names[:data], names[data:], attributes)


def _border(node: ir.Node) -> Step | None:
    scale, zero = (
        edit.scalar(node.inputs[1]),
        edit.constant(node.inputs[2]) if len(node.inputs) > 2 else None,
    )
    shape = node.outputs[0].shape
    if not scale or zero is None or zero.size != 1 or zero.dtype != np.uint8:
        return None
    if shape is None or len(shape) != _RANK:
        return None
    data = [str(node.inputs[0].name)] if node.inputs[0] is not None else []
    if node.op_type == "QuantizeLinear":
        return _step("int8_quantize", node, data, [], [bits(scale), int(zero.reshape(()))])
    numbers = [bits(scale), int(zero.reshape(())), _RANK]
    return _step("int8_dequantize", node, data, [], numbers)


def _step(
    kind: str, node: ir.Node, data: list[str], constants: list[str], attributes: list[int]
) -> Step:
    made = (str(node.outputs[0].name),)
    return Step(kind, str(node.name), tuple(data), made, tuple(constants), tuple(attributes))
