"""Between a prunable layer's matrix ``[R, K]`` and the parameter of an interpreter behind it."""

from __future__ import annotations

from torch import Tensor

from sparsecc.passes.weights.layers import Layer, rows_first, stored_weight


def weight_name(layer: Layer) -> str:
    """The ONNX name of the stored weight of a layer, which names the interpreter's parameter."""
    value = stored_weight(layer.node)
    assert value is not None, f"{layer.name} lost its constant weight"
    return value.name or ""


def as_matrix(layer: Layer, stored: Tensor) -> Tensor:
    """``[R, K]`` of the stored weight, as :func:`sparsecc.passes.weights.layers.matrix`.

    A convolution's K runs over kernel row, kernel column, input channel of its group.
    """
    for order in _orders(layer):
        stored = stored.permute(order)
    if layer.op == "Conv":
        return stored.permute(0, 2, 3, 1).reshape(layer.rows, layer.cols)
    return stored if rows_first(layer) else stored.t()


def _orders(layer: Layer) -> list[list[int]]:
    """Permutations from the stored weight to what the layer's node reads, in order."""
    orders: list[list[int]] = []
    value, rank = layer.node.inputs[1], 4 if layer.op == "Conv" else 2
    while value is not None and (node := value.producer()) is not None and node.inputs:
        if node.op_type == "Transpose":
            orders.append(list(node.attributes.get_ints("perm", range(rank)[::-1])))
        value = node.inputs[0]
    return orders[::-1]
