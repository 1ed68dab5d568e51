"""Read a graph of the IR: its parameters, its constants, and a step for every node.

On an accelerator, small integers that only say sizes (the Shape, Gather, Concat chains before a
Reshape) stay in the host's memory: reading them there costs no wait. A value is kept there if it
can be computed from sizes and constants alone, and something reads it as numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsecc.errors import UnsupportedOpError
from sparsecc.passes.edit import STANDARD, is_op
from sparsecc.torch.ops import OPS, Op
from sparsecc.torch.ops.table import FIX, Body, NodeView, to_torch
from sparsecc.torch.program import Program, Step

HOST = torch.device("cpu")
ON_HOST, ON_DEVICE = "@host", "@device"
"""Suffixes of a second copy of a value."""


@dataclasses.dataclass
class Network:
    """A graph that is ready to be cut into programs.

    Attributes:
        device: Where it computes.
        steps: A step for every node, in order.
        parameters: Names of everything that can be trained.
        fixed: Names of all other constants.
        constants: Name → tensor of those; on an accelerator each has a second
            copy on the host, for those who read it as numbers.
        sources: Names that can be fed: inputs, parameters and whatever a node makes.
        on_host: Names of the values that are kept in the host's memory.
        inputs: Names of the graph's inputs.
        outputs: Names of the graph's outputs.
    """

    device: torch.device
    steps: list[Step] = dataclasses.field(default_factory=list)
    parameters: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    constants: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    sources: set[str] = dataclasses.field(default_factory=set)
    on_host: set[str] = dataclasses.field(default_factory=set)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def read_graph(graph: ir.Graph, opsets: Mapping[str, int], device: torch.device) -> Network:
    """Read a main graph.

    Args:
        graph: Without calls of functions.
        opsets: Domain → version.
        device: Where it will compute.

    Raises:
        UnsupportedOpError: An op, an attribute or an element type that cannot be interpreted.
    """
    names = _Names(graph)
    network = Network(device, parameters=tuple(parameters_of(graph)))
    _fill(network, graph, names, opsets, {})
    network.fixed = tuple(name for name in network.constants if not name.endswith(ON_HOST))
    network.inputs = tuple(names.of(value) for value in graph.inputs)
    network.outputs = tuple(names.of(value) for value in graph.outputs)
    network.sources |= {*network.inputs, *network.parameters}
    return network


def parameters_of(graph: ir.Graph) -> dict[str, ir.Value]:
    """Name → stored value of everything in a main graph that can be trained."""
    names = _Names(graph)
    return {
        names.of(value): value
        for each in all_graphs(graph)
        for value in _stored(each)
        if _is_parameter(value)
    }


def _fill(
    network: Network,
    graph: ir.Graph,
    names: _Names,
    opsets: Mapping[str, int],
    around: Mapping[ir.Value, NDArray[Any]],
) -> None:
    """Add the steps and constants of a graph to `network`, knowing the constants around it."""
    nodes = [node for node in graph if not _is_stored_constant(node)]
    ops = {node: _op(node, opsets) for node in nodes}
    arrays = {**around, **_arrays(graph, network, names)}
    on_host = _on_host(nodes, ops, {v for v in _stored(graph) if not _is_parameter(v)})
    network.on_host |= {names.of(v) for node in on_host for v in node.outputs}
    moved: set[str] = set()
    for node in nodes:
        network.sources.update(names.of(value) for value in node.outputs)
        at_host = node in on_host
        bodies, extras = _bodies(node, names, opsets, network, arrays)
        view = NodeView(
            node=node,
            opset=_opset(node, opsets),
            inputs=[(v is not None, arrays.get(v) if v else None) for v in node.inputs],
            device=HOST if at_host else network.device,
            bodies=bodies,
        )
        function = ops[node].build(view)
        view.check_attributes()
        inputs = [names.of(value) for value in node.inputs] + extras
        if network.device != HOST:
            inputs = [
                _placed(name, at_host or at in ops[node].host, network, moved)
                for at, name in enumerate(inputs)
            ]
        network.steps.append(
            Step(
                name=node.name or "",
                op_type=node.op_type,
                function=function,
                inputs=tuple(inputs),
                outputs=tuple(names.of(value) for value in node.outputs),
                static=ops[node].static and not bodies,
            )
        )


def _placed(name: str, as_numbers: bool, network: Network, moved: set[str]) -> str:
    """The name of the copy of a value in the memory where a node wants it."""
    if as_numbers and name in network.constants:
        return name + ON_HOST
    if as_numbers or name not in network.on_host:
        return name
    if name not in moved:
        moved.add(name)
        device = network.device
        move = lambda x: x.to(device, non_blocking=True)  # noqa: E731
        network.steps.append(Step(name, "Move", move, (name,), (name + ON_DEVICE,)))
    return name + ON_DEVICE


def _on_host(
    nodes: Sequence[ir.Node], ops: Mapping[ir.Node, Op], constants: set[ir.Value]
) -> set[ir.Node]:
    """The nodes that compute sizes for others to read."""
    able: set[ir.Value] = set(constants)
    candidates: set[ir.Node] = set()
    for node in nodes:
        values = [value for value in node.inputs if value is not None]
        simple = ops[node].static and not node_bodies(node)
        if ops[node].makes_host or (simple and values and all(v in able for v in values)):
            candidates.add(node)
            able.update(node.outputs)
    wanted: set[ir.Value | None] = set()
    found: set[ir.Node] = set()
    for node in reversed(nodes):
        if node in candidates and (ops[node].makes_host or wanted.intersection(node.outputs)):
            found.add(node)
            wanted.update(node.inputs)
        else:
            wanted.update(v for at, v in enumerate(node.inputs) if at in ops[node].host)
    return found


def _arrays(graph: ir.Graph, network: Network, names: _Names) -> dict[ir.Value, NDArray[Any]]:
    """Value → array of the constants that are no parameters; their tensors go to `network`."""
    arrays = {}
    for value in _stored(graph):
        if _is_parameter(value) or (not value.uses() and not value.is_graph_output()):
            continue
        tensor = stored_tensor(value)
        made = to_torch(tensor.numpy(), tensor.dtype)
        if made is None:
            raise UnsupportedOpError(
                f"the torch interpreter has no elements of type {tensor.dtype.name}, "
                f"as in the constant {value.name!r}",
                fix=FIX,
            )
        name = names.of(value)
        network.constants[name] = made.to(network.device)
        if network.device != HOST:
            network.constants[name + ON_HOST] = made
        if not value.is_graph_input():
            arrays[value] = tensor.numpy()
    return arrays


def _bodies(
    node: ir.Node,
    names: _Names,
    opsets: Mapping[str, int],
    around: Network,
    arrays: Mapping[ir.Value, NDArray[Any]],
) -> tuple[dict[str, Body], list[str]]:
    """The graphs inside a node as functions, and the names of what they read from outside."""
    extras: dict[str, int] = {}
    bodies: dict[str, Body] = {}
    for attribute, graph in node_bodies(node):
        inner = Network(around.device)
        _fill(inner, graph, names, opsets, arrays)
        own = [names.of(value) for value in graph.inputs]
        wanted = [names.of(value) for value in graph.outputs]
        made = {*own, *inner.constants, *(name for s in inner.steps for name in s.outputs)}
        read = [name for step in inner.steps for name in step.inputs] + wanted
        outside = [name for name in dict.fromkeys(read) if name and name not in made]
        places = [extras.setdefault(name, len(extras)) for name in outside]
        program = Program(inner.steps, [*own, *outside], wanted, inner.constants)
        bodies[attribute] = _body(program, places)
    return bodies, list(extras)


def _body(program: Program, places: Sequence[int]) -> Body:
    def run(inputs: Sequence[Tensor], extras: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return program(*inputs, *(extras[place] for place in places))

    return run


def node_bodies(node: ir.Node) -> list[tuple[str, ir.Graph]]:
    """Attribute name → graph, of the graphs inside a node."""
    return [
        (name, attribute.as_graph())
        for name, attribute in node.attributes.items()
        if attribute.type == ir.AttributeType.GRAPH
    ]


def all_graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """A graph and those inside its nodes."""
    yield graph
    for node in graph:
        for _, body in node_bodies(node):
            yield from all_graphs(body)


def _op(node: ir.Node, opsets: Mapping[str, int]) -> Op:
    op = OPS.get(node.op_type) if node.domain in STANDARD else None
    if op is None:
        view = NodeView(node, _opset(node, opsets), (), HOST)
        raise view.refuse("it does not know this op")
    return op


def _opset(node: ir.Node, opsets: Mapping[str, int]) -> int:
    return opsets.get(node.domain, opsets.get("", 1))


def _is_stored_constant(node: ir.Node) -> bool:
    return is_op(node, "Constant") and "value" in node.attributes


def _stored(graph: ir.Graph) -> Iterator[ir.Value]:
    """Initializers and the outputs of Constant nodes that hold a tensor."""
    for value in graph.initializers.values():
        if value.const_value is not None:
            yield value
    for node in graph:
        if _is_stored_constant(node):
            yield node.outputs[0]


def stored_tensor(value: ir.Value) -> ir.TensorProtocol:
    """What an initializer, or the Constant node behind a value, holds."""
    producer = value.producer()
    if producer is None:
        assert value.const_value is not None
        return value.const_value
    return producer.attributes["value"].as_tensor()


def store(value: ir.Value, array: NDArray[Any]) -> None:
    """Make an initializer, or the Constant node behind a value, hold another array."""
    tensor = ir.tensor(array, name=value.name)
    producer = value.producer()
    if producer is not None:
        producer.attributes["value"] = ir.AttrTensor("value", tensor)
    if producer is None or value.const_value is not None:
        value.const_value = tensor


def _is_parameter(value: ir.Value) -> bool:
    """Whether a constant can be trained: floating point, no bare number, not only sizes."""
    tensor = stored_tensor(value)
    if not tensor.dtype.is_floating_point():
        return False
    several = math.prod(tensor.shape.numpy()) > 1
    for node, position in value.uses():
        op = OPS.get(node.op_type) if node.domain in STANDARD else None
        if op is None or position in (*op.host, *op.fixed):
            continue
        if several or position in op.learned:
            return True
    return False


class _Names:
    """A name of its own for every value of a graph and of the graphs inside it."""

    def __init__(self, graph: ir.Graph) -> None:
        self._names: dict[ir.Value, str] = {}
        self._taken: set[str] = {""}
        for each in all_graphs(graph):
            for value in (*each.inputs, *each.initializers.values()):
                self._add(value)
            for node in each:
                for value in node.outputs:
                    self._add(value)

    def _add(self, value: ir.Value) -> None:
        if value in self._names:
            return
        name, number = value.name or "", 1
        while name and name in self._taken:
            number += 1
            name = f"{value.name}#{number}"
        self._taken.add(name)
        self._names[value] = name

    def of(self, value: ir.Value | None) -> str:
        """The name of a value, "" for an absent one."""
        return "" if value is None else self._names[value]
