"""Which tables a model looks its whole numbers up in."""

from __future__ import annotations

import onnx_ir as ir

_SAME_NUMBERS = frozenset(
    {"Cast", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)


def table_rows(model: ir.Model) -> dict[str, int]:
    """Rows of the smallest table that the numbers of an input choose from, where there is one."""
    known: dict[str, int] = {}
    for value in model.graph.inputs:
        found = [
            rows
            for node in _lookups(value)
            if (table := node.inputs[0]) is not None
            and table.shape is not None
            and (axis := node.attributes.get_int("axis", 0)) < len(table.shape)
            and isinstance(rows := table.shape[axis], int)
            and _is_constant(table)
        ]
        if found:
            known[value.name or ""] = min(found)
    return known


def _lookups(value: ir.Value) -> list[ir.Node]:
    """The Gather nodes whose indices are the numbers of a value."""
    found, todo, seen = [], [value], {value}
    while todo:
        here = todo.pop()
        for node, at in here.uses():
            if node.op_type == "Gather" and at == 1:
                found.append(node)
            elif node.op_type in _SAME_NUMBERS and at == 0:
                new = [out for out in node.outputs if out not in seen]
                seen.update(new)
                todo += new
    return found


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and producer.op_type == "Constant")


__all__ = ["table_rows"]
