"""Values times a gate of themselves, where no sparse layer before them could take that over."""

from __future__ import annotations

import onnx_ir as ir

from sparsecc.backends.codegen.program import Step
from sparsecc.passes.edit import is_op, sole_consumer
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.regions.steps import CODES, step_of
from sparsecc.passes.regions.unit import Unit

_PRODUCTS = {"Sigmoid": "silu", "HardSigmoid": "hardswish"}


def swish(node: ir.Node, shapes: Shapes) -> Unit | None:
    """X · Sigmoid(x) or x · HardSigmoid(x)."""
    x, product = node.inputs[0], sole_consumer(node.outputs[0])
    if product is None or not is_op(product, "Mul") or x not in product.inputs:
        return None
    gate = step_of(node, shapes)
    if not isinstance(gate, Step):
        return None
    made = (str(product.outputs[0].name),)
    code = CODES[_PRODUCTS[node.op_type]]
    return Unit(
        (node, product), Step("activation", str(product.name), gate.inputs, made, (), (code,))
    )
