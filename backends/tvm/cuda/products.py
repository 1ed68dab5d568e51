"""A product with a constant weight as launches of a form's kernels."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from sparsecc.backends.cuda.forms.base import Product
from sparsecc.backends.cuda.forms.registry import FORMS
from sparsecc.backends.cuda.kernel import Arch
from sparsecc.backends.tvm.cuda.regions import DTYPE, Region, fixed_sizes
from sparsecc.errors import BackendError
from sparsecc.passes.edit import constant
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.report.rows import DENSE_MATMUL

DENSE = "dense"
"""The form of layers without zeros."""


def product_region(node: ir.Node, shapes: Shapes, name: str, arch: Arch, *, form: str) -> Region:
    """The region of a ``MatMul`` by a constant weight ``[inputs, outputs]``.

    Args:
        node: The node.
        shapes: Of its model.
        name: Of the function.
        arch: What it is for.
        form: Of the weight: the name of one of the registry.

    Raises:
        BackendError: No kernel computes it; says why.
    """
    if node.op_type != "MatMul":
        raise BackendError("no kernel for convolutions on GPUs yet")
    weight = constant(node.inputs[1])
    assert weight is not None, f"{node.name} has a weight that is no constant"
    *outer, columns = fixed_sizes(node.inputs[0], shapes)
    tokens, rows = math.prod(outer), weight.shape[1]
    packed = FORMS[form].pack(np.ascontiguousarray(weight.T), DTYPE)
    if not tokens or not all(array.size for array in packed.arrays.values()):
        raise BackendError("there is nothing to multiply", fix="leave the layer out")
    product = Product(rows, columns, packed.sizes, tokens, DTYPE, arch)
    return Region(
        name,
        DENSE_MATMUL if form == DENSE else f"{form}-{DTYPE}",
        FORMS[form].recipe(product),
        inputs={"X": (DTYPE, (tokens, columns))},
        outputs={"Out": (DTYPE, (tokens, rows))},
        arrays=packed.arrays,
    )
