"""Sizes of a Reshape that a model computes at run time, as constants. Exact."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import constant, new_initializer, nodes_of
from sparsecc.passes.fuse.shapes import Shapes

_COPY, _REST = 0, -1


class ReshapeSizes(Pass):
    """A size that is the same as that of the input there becomes 0, one that is not known -1.

    Exporters read an open batch or length from the input's shape and put it together with numbers
    again; without that arithmetic the Reshape is a step of its own, whatever the sizes.
    """

    name: ClassVar[str] = "reshape-sizes"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Replace what is computed wherever at most one size is neither a number nor a copy."""
        shapes, modified = Shapes(model), False
        for node in nodes_of(model, "Reshape"):
            sizes = _sizes(node, shapes)
            if sizes is not None:
                array = np.array(sizes, np.int64)
                node.replace_input_with(1, new_initializer(node, f"{node.name}.sizes", array))
                node.attributes.pop("allowzero", None)
                modified = True
        return modified


def _sizes(node: ir.Node, shapes: Shapes) -> list[int] | None:
    """The sizes as constants, or None where they are so already or cannot be."""
    x, asked = node.inputs[:2]
    if x is None or constant(asked) is not None:
        return None
    before, after = shapes.terms(x), shapes.terms(node.outputs[0])
    if before is None or after is None:
        return None
    sizes = []
    for axis, term in enumerate(after):
        if axis < len(before) and before[axis] == term:
            sizes.append(_COPY)
        else:
            sizes.append(term if isinstance(term, int) else _REST)
    most = 0 if node.attributes.get_int("allowzero", 0) else 1  # what is empty has no rest
    return sizes if sizes.count(_REST) <= most and 0 not in after else None
