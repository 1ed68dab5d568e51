"""Moving a layer's bias, so that pruning does not shift the mean of its outputs.

``b += (W − Ŵ) E[x]``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes import edit
from sparsecc.passes.weights.layers import Layer

_BIAS_INPUT = 2


def can_shift(layer: Layer) -> bool:
    """Whether the layer has a constant bias, or an input slot where one can be put."""
    return _bias_slot(layer) is not None


def has_bias(layer: Layer) -> bool:
    """Whether the layer has a constant bias of its own already."""
    slot = _bias_slot(layer)
    return slot is not None and _own(*slot) is not None


def shift_bias(layer: Layer, shift: NDArray[np.floating]) -> None:
    """Add ``shift[R]``, in units of W·x, to the layer's output through its bias.

    Call only where :func:`can_shift` holds.
    """
    slot = _bias_slot(layer)
    assert slot is not None, f"{layer.name} has no bias to move"
    node, position = slot
    scale = 1.0
    if layer.op == "Gemm":
        attributes = layer.node.attributes
        scale = attributes.get_float("alpha", 1.0) / attributes.get_float("beta", 1.0)
    old = edit.constant(node.inputs[position]) if position < len(node.inputs) else None
    dtype = np.float32 if old is None else old.dtype
    moved = (0 if old is None else old.astype(np.float64)) + scale * np.asarray(shift, np.float64)
    _put(node, position, f"{layer.name}.bias", np.ascontiguousarray(moved, dtype))


def _put(node: ir.Node, position: int, name: str, array: NDArray[np.floating]) -> None:
    """Make ``array`` the input: in the initializer that is there if nobody else reads it."""
    old = _own(node, position)
    if old is not None:
        old.const_value = ir.tensor(array, name=old.name)
        return
    if position >= len(node.inputs):
        node.resize_inputs(position + 1)
    node.replace_input_with(position, edit.new_initializer(node, name, array))


def _own(node: ir.Node, position: int) -> ir.Value | None:
    """The initializer that is an input of this node alone, if there is one."""
    value = node.inputs[position] if position < len(node.inputs) else None
    own = value is not None and value.is_initializer() and len(value.uses()) == 1
    return value if own else None


def _bias_slot(layer: Layer) -> tuple[ir.Node, int] | None:
    """The node and input position that add a constant ``[R]`` to the layer's output."""
    node = layer.node
    if layer.op == "MatMul":
        reader = edit.sole_consumer(node.outputs[0])
        if reader is None or not edit.is_op(reader, "Add"):
            return None
        position = 1 if reader.inputs[0] is node.outputs[0] else 0
        return (reader, position) if _is_row(reader.inputs[position], layer.rows) else None
    if layer.op == "Gemm" and node.attributes.get_float("beta", 1.0) == 0.0:
        return None
    bias = node.inputs[_BIAS_INPUT] if len(node.inputs) > _BIAS_INPUT else None
    if bias is not None and not _is_row(bias, layer.rows):
        return None
    return node, _BIAS_INPUT


def _is_row(value: ir.Value | None, rows: int) -> bool:
    array = edit.constant(value)
    return array is not None and array.ndim >= 1 and array.shape[-1] == rows == array.size
