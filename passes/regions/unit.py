"""A unit: the nodes that one step of the kernel library computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from sparsecc.backends.codegen.program import Step
from sparsecc.passes.fuse.shapes import Shapes


@dataclass(frozen=True, eq=False)
class Unit:
    """Nodes and the step that computes them.

    Attributes:
        nodes: In any order.
        step: Its inputs, outputs and constants are names of values of the graph.
    """

    nodes: tuple[ir.Node, ...]
    step: Step

    @property
    def is_closed(self) -> bool:
        """Whether only its own nodes read the values that its step does not make."""
        return all(
            value.name in self.step.outputs
            or not (value.is_graph_output() or set(value.consumers()) - set(self.nodes))
            for node in self.nodes
            for value in node.outputs
        )


Match = Callable[[ir.Node, Shapes], Unit | None]
"""The unit that ends in a node, or None where there is none of its kind."""
