"""Layer names: what the user's model calls a layer becomes the name of its node."""

from __future__ import annotations

import onnx_ir as ir


def name_nodes(model: ir.Model) -> None:
    """Give every node of `model` a name of its own; names already unique are kept.

    A nameless node takes the name of its weight without ".weight", else of its first output.
    """
    _name(list(model.graph.all_nodes()))
    for function in model.functions.values():
        _name(list(function.all_nodes()))


def _name(nodes: list[ir.Node]) -> None:
    taken = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    for node in nodes:
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        node.name = unique(node.name or _derived(node), taken)
        taken.add(node.name)
        seen.add(node.name)


def unique(name: str, taken: set[str]) -> str:
    """`name`, or the first of `name_2`, `name_3`, … that is not taken."""
    if name not in taken:
        return name
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _derived(node: ir.Node) -> str:
    for value in node.inputs[1:]:
        if value is not None and value.is_initializer() and value.name and _is_weight(value):
            return value.name.removesuffix(".weight")
    first = node.outputs[0].name if node.outputs else None
    return first or node.op_type


def _is_weight(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) >= 2
