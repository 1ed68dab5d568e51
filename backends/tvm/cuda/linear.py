"""Linear layers that a dense kernel on tensor cores takes.

Routers and classifiers stay as they are, in float32: they choose by small differences.
"""

from __future__ import annotations

import onnx_ir as ir

from sparsecc.passes import edit
from sparsecc.passes.weights.choose import node_bias
from sparsecc.passes.weights.layers import Layer, find_layers, matrix


def linear_layers(model: ir.Model) -> list[Layer]:
    """Products with a constant weight and a bias for each output, in the order of the graph."""
    found = find_layers(model).layers
    return [each for each in found if each.op != "Conv" and not each.keep_dense and _fits(each)]


def as_product(layer: Layer) -> ir.Node:
    """A layer as a product by ``[inputs, outputs]``, in its place; its bias is added behind."""
    node = layer.node
    if node.op_type == "MatMul":
        return node
    bias = node_bias(node, layer.rows)
    assert bias is not None, f"{layer.name} was taken although its bias is not constant"
    weight = edit.new_initializer(node, f"{layer.name}.turned", matrix(layer).T.copy())
    added = edit.new_initializer(node, f"{layer.name}.added", bias)
    product = ir.Node("", "MatMul", [node.inputs[0], weight], name=layer.name)
    whole = ir.Node("", "Add", [product.outputs[0], added], name=f"{layer.name}.bias")
    old = node.outputs[0]
    for each in (product.outputs[0], whole.outputs[0]):
        each.type, each.shape = old.type, old.shape
    edit.replace([node], [product, whole], at=node)
    return product


def _fits(layer: Layer) -> bool:
    if layer.op == "MatMul":
        return edit.constant(layer.node.inputs[1]) is not None
    numbers = (layer.node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    return set(numbers) == {1.0} and node_bias(layer.node, layer.rows) is not None
