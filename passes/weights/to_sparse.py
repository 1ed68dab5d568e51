"""Replaces layers whose zeros pay by sparse ops. Exact: no weight changes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc import ops
from sparsecc.formats.blocks import Block, pack_blocks
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.weights.choose import Choice, choose, node_bias
from sparsecc.passes.weights.layers import Layer, find_layers, matrix
from sparsecc.passes.weights.pack_node import pack_node
from sparsecc.targets import Target


class ToSparse(Pass):
    """Packs the weights of layers that the cost model expects to be faster sparse.

    Attributes:
        choices: After ``call``, what was chosen for each layer, in graph order.
    """

    name: ClassVar[str] = "to-sparse"

    def __init__(self, target: Target) -> None:
        self.target = target
        self.choices: list[Choice] = []

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Choose for every layer, then rewrite the ones that pay."""
        survey = find_layers(model)
        images = [layer for layer in survey.layers if layer.op == "Conv"]
        products = [layer for layer in survey.layers if layer.op != "Conv"]
        beside = {True: _have_neighbours(images), False: _have_neighbours(products)}
        self.choices = [
            choose(layer, self.target, beside=beside[layer.op == "Conv"]) for layer in survey.layers
        ]
        for choice in self.choices:
            if choice.block is None:
                ctx.refuse(self.name, choice.layer.node, choice.row.why)
            else:
                replace_layer(choice.layer, choice.block)
        if any(choice.block for choice in self.choices):
            model.opset_imports[ops.DOMAIN] = ops.VERSION
            return True
        return False


def _have_neighbours(layers: Sequence[Layer]) -> bool:
    """Whether several layers have zeros: a region takes what lies between them too."""
    weights = map(matrix, layers)
    with_zeros = (weight for weight in weights if np.count_nonzero(weight) < weight.size)
    return len(list(itertools.islice(with_zeros, 2))) == 2  # no more weights are read than that


def replace_layer(layer: Layer, block: Block) -> ir.Node:
    """Put a sparse op in the place of a layer's node; name, output and shape are kept."""
    weight = matrix(layer)
    if layer.op == "Conv":
        weight = weight.reshape(layer.rows, *layer.kernel, -1)
    bias = node_bias(layer.node, layer.rows)
    assert bias is not None, f"{layer.name} was chosen although its bias is not constant"
    return pack_node(layer.node, pack_blocks(weight, block), bias, layer.name)
