"""Finds layers in QDQ form: what stands for one eight-bit op.

Models quantized here and elsewhere are read alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.formats.blocks import pack_blocks
from sparsecc.ops import int8
from sparsecc.passes import edit
from sparsecc.passes.base import Context
from sparsecc.passes.quantize.arithmetic import LARGEST, LEVELS, Scale
from sparsecc.passes.quantize.insert import CLAMPS, is_depthwise, row_axis

NAME = "int8-ops"
BLOCK = (4, 4)
_SAME_BYTES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_SIGNED = 128
"""What turns a signed byte into the unsigned one that the kernels work on."""


Attribute = int | float | list[int]


@dataclass(frozen=True)
class Group:
    """Nodes that one eight-bit op stands for.

    Attributes:
        op: ``Quantize``, ``Dequantize``, or an op of ``sparsecc.ops.int8``.
        attributes: Its attributes, as that module names them.
        constants: Its arrays, in order.
        inputs: Values read: floating-point ones by ``Quantize``, eight-bit ones by the others.
        output: Value written.
        scale: Of ``Quantize`` and ``Dequantize``: what the bytes mean.
        nodes: The nodes of the model that it stands for.
    """

    op: str
    attributes: dict[str, Attribute]
    constants: tuple[NDArray[Any], ...]
    inputs: tuple[ir.Value, ...]
    output: ir.Value
    nodes: tuple[ir.Node, ...]
    scale: Scale | None = None


@dataclass(frozen=True)
class _Bytes:
    """An eight-bit value: where its bytes are, and what they mean as unsigned ones."""

    value: ir.Value
    scale: Scale


def find_groups(model: ir.Model, ctx: Context) -> list[Group]:
    """The groups of all layers in QDQ form, in order; why others are left goes to ``ctx``.

    There is one for every QuantizeLinear of a floating-point value and every DequantizeLinear of an
    image whose numbers are read as such.
    """
    groups: list[Group] = []
    same: dict[ir.Value, ir.Value] = {}
    for node in edit.nodes_of(model, "QuantizeLinear"):
        group = _group(node, same)
        if isinstance(group, str):
            ctx.refuse(NAME, node, group)
        elif group is not None:
            groups.append(group)
    covered = {node for group in groups for node in group.nodes}
    made = {group.output for group in groups}
    for node in edit.nodes_of(model, "DequantizeLinear"):
        output = node.outputs[0]
        read = _bytes_of(output, same)
        used = output.is_graph_output() or any(
            use.node not in covered and not _is_alias(use.node) for use in output.uses()
        )
        if read is not None and used and read.value in made:
            groups.append(Group("Dequantize", {}, (), (read.value,), output, (node,), read.scale))
    return groups


def _is_alias(node: ir.Node) -> bool:
    return edit.is_op(node, *_SAME_BYTES)


def _scale(node: ir.Node) -> Scale | None:
    """The scale of a QuantizeLinear or DequantizeLinear of a whole tensor, of unsigned bytes."""
    scale = edit.scalar(node.inputs[1])
    zeros = edit.constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
    if scale is None or zeros is None or zeros.size != 1 or not 0 < scale < np.inf:
        return None
    if zeros.dtype not in (np.uint8, np.int8):
        return None
    return Scale(scale, int(zeros.reshape(())) + (_SIGNED if zeros.dtype == np.int8 else 0))


def _bytes_of(value: ir.Value | None, same: dict[ir.Value, ir.Value]) -> _Bytes | None:
    """The bytes behind a floating-point value that DequantizeLinear makes."""
    node = None if value is None else value.producer()
    if node is None or not edit.is_op(node, "DequantizeLinear"):
        return None
    scale, read = _scale(node), node.inputs[0]
    return None if scale is None or read is None else _Bytes(same.get(read, read), scale)


def _group(quantize: ir.Node, same: dict[ir.Value, ir.Value]) -> Group | str | None:
    """The group that ends in a QuantizeLinear, or why there is none.

    Nothing when it only renames bytes, or ends one already.
    """
    out, value = _scale(quantize), quantize.inputs[0]
    if out is None or value is None:
        return "it does not quantize a whole tensor to bytes"
    readers = [use.node for use in quantize.outputs[0].uses()]
    if any(node.domain == int8.DOMAIN for node in readers):
        return None
    if quantize.outputs[0].is_graph_output() or not all(
        edit.is_op(node, "DequantizeLinear") for node in readers
    ):
        return "its bytes are read by other than DequantizeLinear"
    target = _Bytes(quantize.outputs[0], out)
    alias = _alias(value, out, same)
    if alias is not None:
        same[quantize.outputs[0]] = alias
        return None
    low, high, clamps = 0, LEVELS, []
    node = value.producer()
    while node is not None and edit.is_op(node, *CLAMPS) and _alone(node.outputs[0]):
        bounds = _bounds(node)
        if bounds is None:
            return "the bounds of a Clip are not constant"
        low, high = max(low, out.byte(bounds[0])), min(high, out.byte(bounds[1]))
        clamps.append(node)
        value = node.inputs[0]
        node = None if value is None else value.producer()
    if node is not None and edit.is_op(node, *_LAYERS) and _alone(node.outputs[0]):
        read = [_bytes_of(value, same) for value in _data(node)]
        if all(each is not None for each in read):
            inputs = [each for each in read if each is not None]
            made = _LAYERS[node.op_type](node, inputs, target, (low, max(low, high)))
            if isinstance(made, str):
                return made
            op, attributes, constants = made
            values = tuple(each.value for each in inputs)
            nodes = (node, *reversed(clamps), quantize)
            return Group(op, attributes, constants, values, target.value, nodes)
    source = quantize.inputs[0]
    if source is None or source.shape is None or len(source.shape) not in (2, 4):
        return "it quantizes neither images nor rows"
    return Group("Quantize", {}, (), (source,), target.value, (quantize,), out)


def _alone(value: ir.Value) -> bool:
    return edit.sole_consumer(value) is not None


def _data(node: ir.Node) -> list[ir.Value | None]:
    return list(node.inputs if node.op_type == "Add" else node.inputs[:1])


def _alias(value: ir.Value, out: Scale, same: dict[ir.Value, ir.Value]) -> ir.Value | None:
    """The bytes that a value in another shape, quantized again by the same scale, is made of."""
    node = value.producer()
    if node is None or not _is_alias(node) or value.shape is None:
        return None
    read = _bytes_of(node.inputs[0], same)
    before = None if node.inputs[0] is None else node.inputs[0].shape
    if read is None or read.scale != out or before is None:
        return None
    sides = [*before[2:], *value.shape[2:]]
    return (
        read.value
        if list(before[:2]) == list(value.shape[:2]) and all(s == 1 for s in sides)
        else None
    )


def _bounds(node: ir.Node) -> tuple[float, float] | None:
    if node.op_type == "Relu":
        return 0.0, np.inf
    found = [-np.inf, np.inf]
    for i, value in enumerate(node.inputs[1:3]):
        if value is not None:
            number = edit.scalar(value)
            if number is None:
                return None
            found[i] = number
    return found[0], found[1]


# ---- layers ----

Made = tuple[str, dict[str, Attribute], tuple[NDArray[Any], ...]]


def _weight(value: ir.Value | None, axis: int) -> tuple[NDArray[np.int8], NDArray[Any]] | str:
    """A weight's bytes and one scale per index along ``axis``, or what is wrong."""
    node = None if value is None else value.producer()
    if node is None or not edit.is_op(node, "DequantizeLinear"):
        return "its weight is not eight-bit"
    stored, scale = edit.constant(node.inputs[0]), edit.constant(node.inputs[1])
    zero = edit.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if stored is None or scale is None or stored.dtype != np.int8:
        return "its weight is not a constant of signed bytes"
    if zero is not None and np.any(zero):
        return "its weight is not symmetric: a zero point is not 0"
    if np.any(stored == -_SIGNED):
        return "a weight is -128: the kernels take -127 to 127"
    along = node.attributes.get_int("axis", 1)
    if scale.size > 1 and (along % stored.ndim != axis or scale.size != stored.shape[axis]):
        return "its weight has scales along another axis than the outputs"
    return stored, np.broadcast_to(scale.reshape(-1).astype(np.float64), (stored.shape[axis],))


def _bias(node: ir.Node, scale: NDArray[Any]) -> NDArray[np.int32] | str:
    """The bias in units of ``scale``, or what is wrong."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(len(scale), np.int32)
    numbers, made = edit.constant(value), value.producer()
    if numbers is None and made is not None and edit.is_op(made, "DequantizeLinear"):
        parts = [edit.constant(each) for each in made.inputs]
        if any(part is None for part in parts) or (len(parts) > 2 and np.any(parts[2])):
            return "its bias is not constant, or not symmetric"
        numbers = np.asarray(parts[0], np.float64) * np.asarray(parts[1], np.float64)
    if numbers is None or numbers.reshape(-1).shape != (len(scale),):
        return "its bias is not a constant with one number per output"
    whole = np.rint(numbers.reshape(-1) / scale)
    return whole.astype(np.int32) if np.all(np.abs(whole) <= LARGEST) else "its bias is too large"


def _conv(node: ir.Node, inputs: list[_Bytes], out: _Bytes, bounds: tuple[int, int]) -> Made | str:
    x, attributes = inputs[0].scale, node.attributes
    read = _weight(node.inputs[1], row_axis(node))
    if isinstance(read, str):
        return read
    stored, scales = read
    if node.op_type == "Gemm":
        if attributes.get_int("transA", 0) or {
            attributes.get_float(name, 1.0) for name in ("alpha", "beta")
        } != {1.0}:
            return "its input is transposed or it is scaled"
        stored = (stored if row_axis(node) == 0 else stored.T)[:, :, None, None]
    elif stored.ndim != 4 or attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return "it is not a 2-D convolution with explicit padding"
    bias = _bias(node, scales * x.scale)
    if isinstance(bias, str):
        return bias
    multiplier = (scales * x.scale / out.scale.scale).astype(np.float32)
    numbers: dict[str, Attribute] = {
        "strides": list(attributes.get_ints("strides", (1, 1))),
        "pads": list(attributes.get_ints("pads", (0, 0, 0, 0))),
        "dilations": list(attributes.get_ints("dilations", (1, 1))),
        "x_zero": x.zero,
        "y_zero": out.scale.zero,
        "low": bounds[0],
        "high": bounds[1],
    }
    if node.op_type == "Conv" and is_depthwise(node, stored):
        taps = np.ascontiguousarray(stored[:, 0])
        return "Depthwise", numbers | {"channels": len(stored)}, (taps, bias, multiplier)
    if attributes.get_int("group", 1) != 1:
        return "it has groups of several channels"
    numbers["channels"] = stored.shape[1]
    return "Conv", numbers, (*packed(stored), bias, multiplier)


def packed(weight: NDArray[np.int8]) -> tuple[NDArray[Any], ...]:
    """``values``, ``index``, ``grid`` and ``shape`` of an OIHW weight, its inputs padded to 4."""
    rows = np.pad(weight.transpose(0, 2, 3, 1), [(0, 0)] * 3 + [(0, -weight.shape[1] % BLOCK[1])])
    blocks = pack_blocks(rows.astype(np.float32), BLOCK)
    sizes = np.array(blocks.grid, np.int64), np.array(blocks.shape, np.int64)
    return blocks.values.astype(np.int8), blocks.index, *sizes


def _add(node: ir.Node, inputs: list[_Bytes], out: _Bytes, bounds: tuple[int, int]) -> Made | str:
    shapes = [None if value is None else value.shape for value in node.inputs]
    if any(shape is None or len(shape) != 4 for shape in shapes) or shapes[0] != shapes[1]:
        return "it does not add images of one shape"
    a, b = (each.scale.scale / out.scale.scale for each in inputs)
    constant = out.scale.zero - a * inputs[0].scale.zero - b * inputs[1].scale.zero
    numbers: dict[str, Attribute] = {
        "a": a,
        "b": b,
        "constant": constant,
        "low": bounds[0],
        "high": bounds[1],
    }
    return "Add", numbers, ()


def _mean(node: ir.Node, inputs: list[_Bytes], out: _Bytes, bounds: tuple[int, int]) -> Made | str:
    if bounds != (0, LEVELS):
        return "a clamp follows the mean"
    x = inputs[0].scale
    multiplier = x.scale / out.scale.scale
    return "Mean", {"multiplier": multiplier, "x_zero": x.zero, "y_zero": out.scale.zero}, ()


_LAYERS = {"Conv": _conv, "Gemm": _conv, "Add": _add, "GlobalAveragePool": _mean}
