"""Products of tokens with the weights of experts, whichever op and orientation they stand in."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.passes.edit import constant, is_op

Array = NDArray[np.floating]
_ALONE, _STACKED = 2, 3
_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten")


@dataclass(frozen=True)
class Weight:
    """A constant as the weight of one expert, or of all.

    Attributes:
        array: As it is stored.
        order: Of its axes, so that they are outputs and inputs; experts first, where it has them.
    """

    array: Array
    order: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """``[outputs, inputs]``, of all experts with their number in front."""
        return tuple(self.array.shape[axis] for axis in self.order)

    def numpy(self) -> Array:
        """In that order."""
        return self.array.transpose(self.order)


@dataclass(frozen=True)
class Product:
    """One product of tokens and a weight.

    Attributes:
        node: Its node.
        tokens: What is multiplied.
        weight: By what.
        bias: A constant that is added to the result.
    """

    node: ir.Node
    tokens: ir.Value
    weight: Weight
    bias: Array | None

    @property
    def is_stacked(self) -> bool:
        """Whether the weight is of all experts."""
        return len(self.weight.order) == _STACKED

    @property
    def size(self) -> tuple[int, int]:
        """Outputs and inputs."""
        outputs, inputs = self.weight.shape[-2:]
        return outputs, inputs


def product_of(node: ir.Node) -> Product | None:
    """A node as such a product."""
    if is_op(node, "Einsum"):
        found = _einsum(node)
    elif is_op(node, "MatMul", "Gemm"):
        found = _matmul(node)
    else:
        return None
    if found is None:
        return None
    tokens, weight = found
    return Product(node, tokens, weight, _bias(node, weight))


@dataclass(frozen=True)
class _Held:
    """A constant operand.

    Attributes:
        array: The constant.
        turned: Whether its last two axes are swapped before it is read.
        gathered: Whether rows of it are picked by expert: its first axis is not the operand's.
    """

    array: Array
    turned: bool = False
    gathered: bool = False


def _matmul(node: ir.Node) -> tuple[ir.Value, Weight] | None:
    read = node.attributes
    for at in (1, 0):
        held, tokens = _held(node.inputs[at]), node.inputs[1 - at]
        if held is None or tokens is None:
            continue
        turned = held.turned ^ (at == 1)
        if is_op(node, "Gemm"):
            plain = read.get_float("alpha", 1.0) == read.get_float("beta", 1.0) == 1.0
            if at == 0 or not plain or read.get_int("transA", 0) != 0:
                return None
            turned ^= read.get_int("transB", 0) == 1
        rank = held.array.ndim
        last = (rank - 1, rank - 2) if turned else (rank - 2, rank - 1)
        return tokens, Weight(held.array, (*range(rank - 2), *last))
    return None


def _einsum(node: ir.Node) -> tuple[ir.Value, Weight] | None:
    """Of an equation: which axes of the weight are kept, summed over, and of the experts."""
    left, arrow, out = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    names = left.split(",")
    held = {at: each for at, value in enumerate(node.inputs) if (each := _held(value)) is not None}
    if not arrow or "." in left or len(held) != 1 or len(names) < 2:
        return None
    ((at, weight),) = held.items()
    # The tokens' own axes stand in no gate, so theirs are the most.
    data = max((place for place in range(len(names)) if place != at), key=lambda p: len(names[p]))
    own = names[at][-_ALONE:] if weight.gathered else names[at]
    if weight.turned:
        own = own[:-2] + own[-1] + own[-2]
    others = "".join(name for place, name in enumerate(names) if place != at)
    outputs = [axis for axis in own if axis == out[-1:] and axis not in others]
    inputs = [axis for axis in own if axis not in out and axis == names[data][-1:]]
    tokens = node.inputs[data]
    if len(outputs) != 1 or len(inputs) != 1 or len(set(own)) != len(own) or tokens is None:
        return None
    first = int(weight.gathered)
    experts = [axis for axis in own if axis not in (*outputs, *inputs)]
    order = tuple(own.index(axis) + first for axis in (*experts, *outputs, *inputs))
    return tokens, Weight(weight.array, (*range(first), *order))


def _held(value: ir.Value | None) -> _Held | None:
    """The constant that a value is, or is gathered from."""
    array = constant(value)
    if array is not None:
        return _Held(array) if array.ndim in (_ALONE, _STACKED) else None
    node = value.producer() if value is not None else None
    if is_op(node, "Transpose"):
        assert node is not None
        held, order = _held(node.inputs[0]), list(node.attributes.get_ints("perm", []))
        rank = len(order)
        swaps = order == [*range(rank - 2), rank - 1, rank - 2]
        swapped = held is not None and swaps
        return dataclasses.replace(held, turned=not held.turned) if held and swapped else None
    gathers = is_op(node, "GatherND", "Gather") and node is not None
    if not gathers or node is None or node.attributes.get_int("axis", 0) != 0:
        return None
    array, index = constant(node.inputs[0]), constant(node.inputs[1])
    if array is None or array.ndim != _STACKED:
        return None
    if index is None:
        return _Held(array, gathered=True)
    return _Held(array[int(index)]) if is_op(node, "Gather") and index.ndim == 0 else None


def _bias(node: ir.Node, weight: Weight) -> Array | None:
    """What is added to a product: ``[outputs]``, or of all experts ``[experts, outputs]``."""
    if is_op(node, "Gemm") and len(node.inputs) > 2:
        return _fitting(node.inputs[2], weight)
    value = node.outputs[0]
    while len(value.uses()) == 1 and not value.is_graph_output():
        reader, at = next(iter(value.uses()))
        if is_op(reader, "Add"):
            return _fitting(reader.inputs[1 - at], weight)
        if not is_op(reader, *_VIEWS) or at:
            return None
        value = reader.outputs[0]
    return None


def _fitting(value: ir.Value | None, weight: Weight) -> Array | None:
    """A constant, perhaps gathered by expert, as a bias."""
    while constant(value) is None and value is not None:
        node = value.producer()
        if not is_op(node, *_VIEWS, "Gather", "GatherND"):
            return None
        assert node is not None
        value = node.inputs[0]
    array = constant(value)
    wanted = weight.shape[:-1]
    if array is None:
        return None
    if array.size == np.prod(wanted):
        return array.reshape(wanted)
    return np.broadcast_to(array.reshape(-1), wanted) if array.size == wanted[-1] else None
