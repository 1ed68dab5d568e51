"""Small questions and edits that many passes share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from sparsecc import ops

STANDARD = ("", "ai.onnx")
"""The two spellings of the domain of standard ops."""


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether `node` is one of these standard ops."""
    return node is not None and node.domain in STANDARD and node.op_type in op_types


def nodes_of(model: ir.Model, *op_types: str) -> Iterator[ir.Node]:
    """Standard nodes of these types in the graph and its subgraphs, in order.

    A snapshot is taken, so the caller may edit while it iterates; nodes which it removed
    meanwhile are skipped.
    """
    for node in list(model.graph.all_nodes()):
        if node.graph is not None and is_op(node, *op_types):
            yield node


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array `value` always holds, or None if it depends on an input."""
    if value is None or value.is_graph_input():
        return None
    tensor = value.const_value
    if tensor is None:
        tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number a constant of one element holds, or None."""
    array = constant(value) if value is not None and not _is_larger(value) else None
    return None if array is None or array.size != 1 else float(array.reshape(()))


def _is_larger(value: ir.Value) -> bool:
    """Whether the shape says at once that there is more than one element (reads no data)."""
    return value.shape is not None and any(dim != 1 for dim in value.shape)


def is_of_pixels(node: ir.Node) -> bool:
    """Whether a Conv, or a sparse one, is a linear layer: 1x1 over images that are one pixel."""
    values = node.inputs[0], node.outputs[0]
    one_pixel = all(
        value is not None and value.shape is not None and list(value.shape)[2:] == [1, 1]
        for value in values
    )
    unpadded = not any(node.attributes.get_ints("pads", []))
    return one_pixel and unpadded and node.attributes.get_int("group", 1) == 1


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that reads `value`, once and in the same graph, if nothing else needs it."""
    producer = value.producer()
    if producer is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    consumer = value.consumers()[0]
    return consumer if consumer.graph is producer.graph else None


def per_channel(
    array: NDArray[Any], channels: int, trailing: int, rank: int
) -> NDArray[np.float64] | None:
    """The number that a constant operand broadcasts to each channel of a tensor.

    Args:
        array: The constant, aligned to the right as ONNX broadcasts it.
        channels: Size of the channel axis.
        trailing: Number of axes after the channel axis.
        rank: Rank of the tensor.

    Returns:
        float64 [channels], or None if the constant differs along another axis or would raise
        the rank.
    """
    wanted = (channels, *(1,) * trailing)
    leading, own = array.shape[: -len(wanted)], array.shape[-len(wanted) :]
    fits = all(a in (1, w) for a, w in zip(reversed(own), reversed(wanted), strict=False))
    if not fits or any(dim != 1 for dim in leading) or array.ndim > rank:
        return None
    return np.broadcast_to(array.reshape(-1), (channels,)).astype(np.float64)


def new_initializer(like: ir.Node, name: str, array: ArrayLike) -> ir.Value:
    """Register an initializer under a fresh name in the graph that holds the node `like`."""
    graph = owner(like)
    value = ops.initializer(fresh_name(graph, name), np.asarray(array))
    graph.register_initializer(value)
    return value


def owner(node: ir.Node) -> ir.Graph:
    """The graph that holds `node`."""
    assert isinstance(node.graph, ir.Graph), f"{node.name} is in no graph"
    return node.graph


def fresh_name(graph: ir.Graph, name: str) -> str:
    """`name`, or `name_2`, `name_3`, …: the first that no value of `graph` has."""
    taken = {value.name for value in graph.inputs} | set(graph.initializers)
    taken |= {output.name for node in graph for output in node.outputs}
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def replace(old: Sequence[ir.Node], new: Sequence[ir.Node], at: ir.Node) -> None:
    """Put `new` in the place of `old`, at the position of the node `at` (one of `old`).

    The outputs of the last new node take over name, type, shape and readers of the outputs of
    the last old node. Nothing may read the other outputs of the old nodes.
    """
    after = new[-1].outputs
    before = old[-1].outputs[: len(after)]
    ir.convenience.replace_nodes_and_values(owner(at), at, old, new, before, after)
