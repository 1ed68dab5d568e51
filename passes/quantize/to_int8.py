"""Puts eight-bit ops in the place of layers in QDQ form. Exact but for ties in rounding."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.ops import int8
from sparsecc.passes import edit
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.names import name_nodes
from sparsecc.passes.quantize.arithmetic import Scale
from sparsecc.passes.quantize.groups import NAME, Group, find_groups


class ToInt8(Pass):
    """Each group of QDQ nodes becomes one op of ``sparsecc.ops.int8``.

    Bytes are unsigned from then on, and images have four dimensions: rows ``[N, C]`` are images of
    one pixel.
    """

    name: ClassVar[str] = NAME

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Replace every group, when there is a convolution or matrix product among them."""
        if model.opset_imports.get("", 0) < int8.LEAST_OPSET:
            return False
        groups = find_groups(model, ctx)
        if not any(group.is_layer for group in groups):
            return False
        graph = model.graph
        now: dict[ir.Value, ir.Value] = {}
        for group in groups:
            nodes = _nodes(group, now)
            graph.insert_after(group.nodes[-1], nodes)
            if nodes[0].op_type == "DequantizeLinear":
                _take_over(graph, group.output, nodes[-1].outputs[0])
            else:
                now[group.output] = nodes[-1].outputs[0]
        graph.sort()
        name_nodes(model)
        int8.attach(model)
        return True


def _nodes(group: Group, now: dict[ir.Value, ir.Value]) -> list[ir.Node]:
    like, layer = group.nodes[0], group.made
    if layer is None:
        is_down = like.op_type == "QuantizeLinear"
        return _quantize(group) if is_down else _dequantize(group, now[group.inputs[0]])
    names = int8.INPUTS[layer.op][len(group.inputs) :]
    arrays = [
        edit.new_initializer(like, f"{like.name}.{name}", array)
        for name, array in zip(names, layer.constants, strict=True)
    ]
    attributes = ir.convenience.convert_attributes(layer.attributes)
    inputs = [*(now[value] for value in group.inputs), *arrays]
    made = ir.Node(int8.DOMAIN, layer.op, inputs, attributes, name=like.name, version=int8.VERSION)
    like.name = f"{like.name}/float"
    return [_named(made, like, "bytes", _image(group.output), ir.DataType.UINT8)]


def _named(
    node: ir.Node, like: ir.Node, name: str, shape: ir.Shape | None, dtype: ir.DataType
) -> ir.Node:
    output = node.outputs[0]
    output.name = edit.fresh_name(edit.owner(like), f"{node.name}/{name}")
    output.shape, output.type = shape, ir.TensorType(dtype)
    return node


def _image(value: ir.Value) -> ir.Shape | None:
    """The shape of a value, with sides of one pixel where it has none."""
    if value.shape is None:
        return None
    return ir.Shape([*value.shape, *(1,) * (4 - len(value.shape))])


def _scalars(like: ir.Node, scale: Scale) -> list[ir.Value]:
    parts: dict[str, NDArray[Any]] = {
        "scale": np.array(scale.scale, np.float32),
        "zero": np.array(scale.zero, np.uint8),
    }
    return [edit.new_initializer(like, f"{like.name}.{k}", array) for k, array in parts.items()]


def _quantize(group: Group) -> list[ir.Node]:
    (old,), (value,) = group.nodes, group.inputs
    before: list[ir.Node] = []
    if value.shape is not None and len(value.shape) == 2:
        shape = edit.new_initializer(old, f"{old.name}.shape", np.array([0, 0, 1, 1], np.int64))
        reshape = ir.Node("", "Reshape", [value, shape], name=f"{old.name}/image")
        before.append(_named(reshape, old, "image", _image(value), ir.DataType.FLOAT))
        value = reshape.outputs[0]
    made = ir.Node(
        "", "QuantizeLinear", [value, *_scalars(old, group.scale)], name=f"{old.name}/bytes"
    )
    return [*before, _named(made, old, "bytes", _image(group.output), ir.DataType.UINT8)]


def _dequantize(group: Group, value: ir.Value) -> list[ir.Node]:
    (old,) = group.nodes
    made = ir.Node(
        "", "DequantizeLinear", [value, *_scalars(old, group.scale)], name=f"{old.name}/numbers"
    )
    nodes = [_named(made, old, "numbers", value.shape, ir.DataType.FLOAT)]
    if group.output.shape is not None and len(group.output.shape) == 2:
        flat = ir.Node("", "Flatten", made.outputs, name=f"{old.name}/rows")
        nodes.append(_named(flat, old, "rows", group.output.shape, ir.DataType.FLOAT))
    return nodes


def _take_over(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """``new`` is read wherever ``old`` was, and has its name."""
    name = old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name, new.name = edit.fresh_name(graph, f"{name}/before"), name
