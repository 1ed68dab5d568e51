"""Numbers that a model computes from shapes, and that every run shares, as constants. Exact."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import constant, is_op, new_initializer
from sparsecc.passes.fuse.shapes import Shapes


class KnownSizes(Pass):
    """Arithmetic on sizes becomes its result where that is numbers; shapes say what is known.

    Exporters read even a head's width from a tensor's shape; as long as that is computed, so is
    all that depends on it, such as the scale of an attention.
    """

    name: ClassVar[str] = "known-sizes"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Replace every such value of the main graph that something else reads."""
        shapes, modified = Shapes(model), False
        for node in list(model.graph):
            for output in node.outputs:
                modified |= _declare(output, shapes)
            if is_op(node, "Constant") or not node.outputs:
                continue
            value, held = node.outputs[0], shapes.numbers(node.outputs[0])
            if held is None or value.dtype != ir.DataType.INT64 or value.shape is None:
                continue
            if constant(value) is not None or value.is_graph_output():
                continue
            if all(isinstance(number, int) for number in held):
                array = np.array(held, np.int64).reshape([len(held)] * len(value.shape))
                value.replace_all_uses_with(new_initializer(node, f"{value.name}.known", array))
                model.graph.remove(node, safe=True)
                modified = True
        return modified


def _declare(value: ir.Value, shapes: Shapes) -> bool:
    """Write numbers and names into the shape of a value where it had none."""
    terms = shapes.terms(value)
    if terms is None:
        return False
    before = [None] * len(terms) if value.shape is None else list(value.shape)
    dims = [
        term if isinstance(term, int | str) and not isinstance(dim, int) else dim
        for dim, term in zip(before, terms, strict=True)
    ]
    known = ir.Shape(dims)
    if known == value.shape:
        return False
    value.shape = known
    return True
