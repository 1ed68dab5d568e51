"""Finds layers in QDQ form: what stands for one eight-bit op.

Models quantized here and elsewhere are read alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.ops import int8
from sparsecc.passes import edit
from sparsecc.passes.base import Context
from sparsecc.passes.quantize.arithmetic import LEVELS, Scale
from sparsecc.passes.quantize.insert import CLAMPS
from sparsecc.passes.quantize.layers import MAKERS, Bounds, Made

NAME = "int8-ops"
_SAME_BYTES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_SIGNED = 128
"""What turns a signed byte into the unsigned one that the kernels work on."""
_RANKS = (2, 4)


@dataclass(frozen=True)
class Group:
    """Nodes that one eight-bit op, or one step to or from bytes, stands for.

    Attributes:
        made: The op; None for a QuantizeLinear or DequantizeLinear.
        inputs: Values read: a floating-point one by QuantizeLinear, else eight-bit ones.
        output: Value written.
        scale: What the bytes written mean, or those read by DequantizeLinear.
        nodes: The nodes of the model that it stands for; the last one writes ``output``.
    """

    made: Made | None
    inputs: tuple[ir.Value, ...]
    output: ir.Value
    scale: Scale
    nodes: tuple[ir.Node, ...]

    @property
    def is_layer(self) -> bool:
        """Whether it is worth an eight-bit model."""
        return self.made is not None and self.made.op in ("Conv", "Depthwise")


@dataclass
class _Found:
    """What is known so far.

    Attributes:
        groups: The groups, in order.
        bytes: Values that hold bytes of ours → the values that hold the same bytes and are made.
    """

    groups: list[Group] = field(default_factory=list)
    bytes: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def add(self, group: Group) -> None:
        self.groups.append(group)
        self.bytes[group.output] = group.output

    def read(self, value: ir.Value | None) -> tuple[ir.Value, Scale] | None:
        """The bytes behind a floating-point value that DequantizeLinear makes of ours."""
        node = None if value is None else value.producer()
        if node is None or not edit.is_op(node, "DequantizeLinear") or node.inputs[0] is None:
            return None
        at, scale = self.bytes.get(node.inputs[0]), scale_of(node)
        return None if at is None or scale is None else (at, scale)


def find_groups(model: ir.Model, ctx: Context) -> list[Group]:
    """The groups of all layers in QDQ form, in order; why others are left goes to ``ctx``.

    There is one for every QuantizeLinear of a floating-point value and every DequantizeLinear of an
    image whose numbers are read as such.
    """
    found = _Found()
    for node in edit.nodes_of(model, "QuantizeLinear"):
        why = _end_in(node, found)
        if why:
            ctx.refuse(NAME, node, why)
    covered = {node for group in found.groups for node in group.nodes}
    for node in edit.nodes_of(model, "DequantizeLinear"):
        output, read = node.outputs[0], found.read(node.outputs[0])
        if read is not None and _are_numbers(output, covered, found):
            found.groups.append(Group(None, (read[0],), output, read[1], (node,)))
    return found.groups


def _are_numbers(value: ir.Value, covered: set[ir.Node], found: _Found) -> bool:
    """Whether anyone reads a value for its numbers, not for the bytes they are made of."""
    if value.is_graph_output():
        return True
    return any(
        not (node in covered or _renames(node, found)) and _is_read(node)
        for node in value.consumers()
    )


def _renames(node: ir.Node, found: _Found) -> bool:
    """Whether all that follows a change of shape is a QuantizeLinear that gives the same bytes."""
    out = node.outputs[0]
    ends = [each.outputs[0] for each in out.consumers()]
    known = all(found.bytes.get(end, end) is not end for end in ends)
    return edit.is_op(node, *_SAME_BYTES) and not out.is_graph_output() and known


def _is_read(node: ir.Node) -> bool:
    return any(out.is_graph_output() or out.uses() for out in node.outputs)


def scale_of(node: ir.Node) -> Scale | None:
    """What the bytes of a QuantizeLinear or DequantizeLinear mean, taken as unsigned ones.

    None where it does not turn a whole tensor between float32 and bytes.
    """
    scale, zeros = edit.constant(node.inputs[1]), _zeros(node)
    if scale is None or scale.dtype != np.float32 or scale.size != 1:
        return None
    if zeros is None or zeros.size != 1 or zeros.dtype not in (np.uint8, np.int8):
        return None
    number, zero = float(scale.reshape(())), int(zeros.reshape(()))
    shift = _SIGNED if zeros.dtype == np.int8 else 0
    return Scale(number, zero + shift) if 0 < number < np.inf else None


def _zeros(node: ir.Node) -> NDArray[Any] | None:
    """The zero point; where it is left out, 0 of the type of the bytes."""
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return edit.constant(node.inputs[2])
    stored = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    kind = None if stored is None else stored.dtype
    return None if kind not in (ir.DataType.UINT8, ir.DataType.INT8) else np.zeros(1, kind.numpy())


def _end_in(quantize: ir.Node, found: _Found) -> str:
    """Take in the group that ends in a QuantizeLinear; why it has no layer, or "".

    There is none when it only renames bytes.
    """
    out, value = scale_of(quantize), quantize.inputs[0]
    if out is None or value is None:
        return "it does not quantize a whole tensor to bytes"
    target = quantize.outputs[0]
    readers = target.consumers()
    if any(node.domain == int8.DOMAIN for node in readers):
        return ""
    if target.is_graph_output() or not all(edit.is_op(n, "DequantizeLinear") for n in readers):
        return "its bytes are read by other than DequantizeLinear"
    alias = _alias(value, out, found)
    if alias is not None:
        found.bytes[target] = alias
        return ""
    layer = _layer(quantize, value, out, found)
    if isinstance(layer, Group):
        found.add(layer)
        return ""
    if value.shape is None or len(value.shape) not in _RANKS or value.dtype != ir.DataType.FLOAT:
        return layer or "it quantizes neither images nor rows of float32"
    found.add(Group(None, (value,), target, out, (quantize,)))
    return layer


def _layer(quantize: ir.Node, value: ir.Value, out: Scale, found: _Found) -> Group | str:
    """The layer that a QuantizeLinear ends; why not, or "" where there is no layer before it."""
    bounds: Bounds = (0, LEVELS)
    clamps: list[ir.Node] = []
    node = value.producer()
    while node is not None and edit.is_op(node, *CLAMPS) and _alone(node.outputs[0]):
        ends = _bounds(node)
        if ends is None:
            return "the bounds of a Clip are not constant"
        low, high = (int(np.clip(out.byte(end), *bounds)) for end in ends)
        bounds = min(low, high), high
        clamps.append(node)
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is None or not edit.is_op(node, *MAKERS) or not _alone(node.outputs[0]):
        return ""
    read = [
        found.read(value) for value in (node.inputs if node.op_type == "Add" else node.inputs[:1])
    ]
    known = [each for each in read if each is not None]
    if len(known) < len(read):
        return ""
    made = MAKERS[node.op_type](node, [scale for _, scale in known], out, bounds)
    if isinstance(made, str):
        return made
    nodes = (node, *reversed(clamps), quantize)
    return Group(made, tuple(at for at, _ in known), quantize.outputs[0], out, nodes)


def _alone(value: ir.Value) -> bool:
    return edit.sole_consumer(value) is not None


def _alias(value: ir.Value, out: Scale, found: _Found) -> ir.Value | None:
    """The bytes that a value in another shape, quantized again by the same scale, is made of."""
    node = value.producer()
    if node is None or not edit.is_op(node, *_SAME_BYTES) or value.shape is None:
        return None
    read = found.read(node.inputs[0])
    before = None if node.inputs[0] is None else node.inputs[0].shape
    if read is None or read[1] != out or before is None:
        return None
    sides = [*before[2:], *value.shape[2:]]
    alike = list(before[:2]) == list(value.shape[:2]) and all(side == 1 for side in sides)
    return read[0] if alike else None


def _bounds(node: ir.Node) -> tuple[float, float] | None:
    """What a clamp keeps its numbers between; None when that is not constant."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    found = [-np.inf, np.inf]
    for i, value in enumerate(node.inputs[1:3]):
        if value is not None:
            number = edit.scalar(value)
            if number is None or np.isnan(number):
                return None
            found[i] = number
    return found[0], found[1]
