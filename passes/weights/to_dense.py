"""Replaces sparse ops by standard ones with the unpacked weight: the masked-dense twin. Exact.

The twin is the oracle of an artifact: it computes the same function through none of the code
that packed weights and kept blocks go through.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from sparsecc import ops
from sparsecc.formats.blocks import unpack_blocks
from sparsecc.ops.activations import BY_NAME
from sparsecc.passes import edit
from sparsecc.passes.base import Context, Pass, run
from sparsecc.passes.regions.inline import InlineRegions


class ToDense(Pass):
    """Unpacks every sparse node of the main graph; other ops of the domain become their bodies."""

    name: ClassVar[str] = "to-dense"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Rewrite every node of the domain; its functions go too."""
        sparse = [node for node in model.graph if ops.is_sparse(node)]
        for node in sparse:
            edit.replace([node], _standard_nodes(node), at=node)
        ops.attach_functions(model)
        rest = {node.op_identifier() for node in model.graph if ops.is_ours(node)}
        if rest:
            common.InlinePass(lambda function: function.identifier() in rest)(model)
            ops.attach_functions(model)
        return bool(sparse or rest)


def _standard_nodes(node: ir.Node) -> list[ir.Node]:
    what = ops.parse(node.op_type)
    names = ops.input_names(node.op_type)
    inputs = dict(zip(names, node.inputs, strict=True))
    nodes = _linear(node, inputs)
    if what.residual:
        nodes.append(ir.Node("", "Add", [nodes[-1].outputs[0], inputs["residual"]]))
    if what.activation != "none":
        nodes += activation_nodes(what.activation, nodes[-1].outputs[0])
    for position, made in enumerate(nodes):
        made.name = f"{node.name}.{position}"
    old, last = node.outputs[0], nodes[-1].outputs[0]
    last.type, last.shape = old.type, old.shape
    return nodes


def _linear(node: ir.Node, inputs: dict[str, ir.Value | None]) -> list[ir.Node]:
    dense = unpack_blocks(ops.read_packed(node))
    x, bias = inputs["X"], inputs["bias"]
    if dense.ndim == 2:
        weight = edit.new_initializer(node, f"{node.name}.dense", np.ascontiguousarray(dense.T))
        product = ir.Node("", "MatMul", [x, weight])
        return [product, ir.Node("", "Add", [product.outputs[0], bias])]
    oihw = np.ascontiguousarray(dense.transpose(0, 3, 1, 2))
    weight = edit.new_initializer(node, f"{node.name}.dense", oihw)
    return [ir.Node("", "Conv", [x, weight, bias], attributes=list(node.attributes.values()))]


def activation_nodes(name: str, x: ir.Value) -> list[ir.Node]:
    """The activation's body as nodes on a value of this graph."""
    values: dict[str, ir.Value] = {"x": x}
    nodes = []
    for proto in BY_NAME[name].body("x", "y"):
        nodes.append(_from_proto(proto, values))
        values[proto.output[0]] = nodes[-1].outputs[0]
    return nodes


def _from_proto(proto: onnx.NodeProto, values: dict[str, ir.Value]) -> ir.Node:
    attributes = [ir.serde.deserialize_attribute(attribute) for attribute in proto.attribute]
    return ir.Node("", proto.op_type, [values[name] for name in proto.input], attributes=attributes)


def twin_of(model: ir.Model) -> ir.Model:
    """The masked-dense twin: the same weights in standard ops; the model is left as it is."""
    twin = model.clone()
    run([InlineRegions(), ToDense()], twin, Context())
    return twin
