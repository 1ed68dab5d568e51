"""Puts a sparse op with a packed weight in the place of a Conv, Gemm or MatMul."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.formats.blocks import BlockWeight
from sparsecc.passes import edit


def pack_node(
    node: ir.Node, packed: BlockWeight, bias: NDArray[np.float32], name: str | None = None
) -> ir.Node:
    """Replace a node by the sparse op of the same meaning.

    Args:
        node: A 2-D Conv, or a Gemm or MatMul by a constant; its name, output and shape are kept.
        packed: Its weight, of the logical shape of the op (4-D for Conv).
        bias: ``[R]``.
        name: Starts the names of the new initializers; the node's own name by default.

    Returns:
        The new node.
    """
    arrays = {**ops.packed_arrays(packed), "bias": bias}
    initializers = [
        edit.new_initializer(node, f"{name or node.name}.{part}", array)
        for part, array in arrays.items()
    ]
    old, is_conv = node.outputs[0], node.op_type == "Conv"
    fresh = ir.Node(
        ops.DOMAIN,
        ops.variant("SparseConv" if is_conv else "SparseMatMul"),
        [node.inputs[0], *initializers],
        attributes=_window(node) if is_conv else [],
        outputs=[ir.Value(type=old.type, shape=old.shape)],
        name=node.name,
        version=ops.VERSION,
        metadata_props=dict(node.metadata_props),
    )
    edit.replace([node], [fresh], at=node)
    return fresh


def _window(conv: ir.Node) -> list[ir.Attr]:
    read = conv.attributes
    return [
        ir.AttrInt64s("strides", list(read.get_ints("strides", [1, 1]))),
        ir.AttrInt64s("pads", list(read.get_ints("pads", [0] * 4))),
        ir.AttrInt64s("dilations", list(read.get_ints("dilations", [1, 1]))),
        ir.AttrInt64("group", read.get_int("group", 1)),
    ]
