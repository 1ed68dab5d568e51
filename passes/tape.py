"""Nodes written down one after the other, to take the place of one node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.passes.edit import fresh_name, new_initializer, owner, replace


class Tape:
    """Standard nodes that will replace `node`, named after it.

    Args:
        node: The node to replace.
    """

    def __init__(self, node: ir.Node) -> None:
        self._node = node
        self._graph = owner(node)
        self._nodes: list[ir.Node] = []

    def op(
        self, op_type: str, *inputs: ir.Value | None, **attributes: int | float | Sequence[int]
    ) -> ir.Value:
        """The output of a new node: a standard one, or one of the domain of sparse ops."""
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        outputs: int,
        **attributes: int | float | Sequence[int],
    ) -> Sequence[ir.Value]:
        """All outputs of a new node that has several."""
        name = f"{self._node.name}/{op_type}_{len(self._nodes)}"
        attrs = ir.convenience.convert_attributes(attributes)
        ours = op_type in ops.OP_TYPES
        domain, version = (ops.DOMAIN, ops.VERSION) if ours else ("", None)
        node = ir.Node(
            domain, op_type, inputs, attrs, name=name, version=version, num_outputs=outputs
        )
        for at, output in enumerate(node.outputs):
            output.name = fresh_name(self._graph, f"{name}/{at}" if at else name)
        self._nodes.append(node)
        return node.outputs

    def take(self, nodes: Sequence[ir.Node]) -> ir.Value:
        """The last output of nodes that were made elsewhere."""
        for each in nodes:
            each.name = f"{self._node.name}/{each.op_type}_{len(self._nodes)}"
            for output in each.outputs:
                output.name = fresh_name(self._graph, each.name)
            self._nodes.append(each)
        return nodes[-1].outputs[-1]

    def constant(self, array: NDArray[np.generic]) -> ir.Value:
        """A constant of few elements; equal ones of one graph are one initializer."""
        name = f"constant/{array.dtype}{list(array.shape)}/{array.tolist()}"
        value = self._graph.initializers.get(name)
        if value is None:
            value = ops.initializer(name, array)
            self._graph.register_initializer(value)
        return value

    def weight(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        """An initializer of its own, named after the node that is replaced."""
        return new_initializer(self._node, f"{self._node.name}.{name}", array)

    def ints(self, *numbers: int) -> ir.Value:
        """A constant int64 vector."""
        return self.constant(np.array(numbers, np.int64))

    def finish(self) -> list[ir.Node]:
        """Put the nodes in, and return them; the last one takes the place of the replaced node."""
        replace([self._node], self._nodes, at=self._node)
        self._nodes[-1].name = self._node.name
        return self._nodes
