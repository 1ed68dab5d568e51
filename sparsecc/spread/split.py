"""A model cut at its mixtures of experts: parts for every process, and experts for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc import ops
from sparsecc.errors import ModelError, PlanError
from sparsecc.simulate.load import placement
from sparsecc.spread.schedule import Call, Exchange, Schedule


@dataclass(frozen=True)
class Split:
    """A model in parts.

    Attributes:
        schedule: What is done with them.
        parts: By folder, what every process runs.
        experts: By folder, for each process its part of the experts.
    """

    schedule: Schedule
    parts: dict[str, ir.Model]
    experts: dict[str, list[ir.Model]]


Load = Sequence[float] | Mapping[str, Sequence[float]]
"""How often each expert is chosen: of all mixtures alike, or by the name of each."""


def split(model: ir.Model, ranks: int, load: Load | None = None) -> Split:
    """Cut a model at every ``MoE`` whose weights are constant.

    Args:
        model: It stays as it is.
        ranks: How many processes share the experts, equally many each.
        load: How often each expert is chosen; then they are placed by it, else in their order.

    Raises:
        ModelError: There is no such node.
        PlanError: Experts do not divide, or ``load`` is of another number of them.
    """
    mixtures = [node for node in model.graph if _is_mixture(node)]
    if not mixtures:
        raise ModelError(
            "the model has no mixture of experts to spread",
            fix="sparsecc.compile makes an artifact for one process",
        )
    levels = _levels(model.graph)
    steps: list[Call | Exchange] = []
    parts: dict[str, ir.Model] = {}
    experts: dict[str, list[ir.Model]] = {}
    for level in range(max(levels.values()) + 1):
        nodes = [node for node in model.graph if levels[node] == level]
        rest = [node for node in nodes if not _is_mixture(node)]
        if rest:
            name = f"part{level}"
            parts[name] = _part(model, rest, name)
            graph = parts[name].graph
            steps.append(
                Call(part=name, inputs=_names(graph.inputs), outputs=_names(graph.outputs))
            )
        for node in (node for node in nodes if _is_mixture(node)):
            name = f"experts{len(experts)}"
            owners = _owners(node, ranks, load)
            experts[name] = [_slice(model, node, owners, rank) for rank in range(ranks)]
            steps.append(_exchange(node, name, owners))
    schedule = Schedule(
        ranks=ranks,
        inputs=_names(model.graph.inputs),
        outputs=_names(model.graph.outputs),
        steps=tuple(steps),
    )
    return Split(schedule, parts, experts)


def _is_mixture(node: ir.Node) -> bool:
    if node.domain != ops.DOMAIN or node.op_type not in ops.MIXTURES:
        return False
    return all(value is not None and value.const_value is not None for value in node.inputs[3:])


def _levels(graph: ir.Graph) -> dict[ir.Node, int]:
    """For each node the most mixtures that lie before it on any way."""
    levels: dict[ir.Node, int] = {}
    for node in graph:
        before = [value.producer() for value in _read(node)]
        levels[node] = max(
            (levels[each] + _is_mixture(each) for each in before if each in levels), default=0
        )
    return levels


def _read(node: ir.Node) -> Iterable[ir.Value]:
    """What a node reads, inside of its branches and loops too."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph().all_nodes():
                yield from (value for value in inner.inputs if value is not None)


def _part(model: ir.Model, nodes: Sequence[ir.Node], name: str) -> ir.Model:
    """The nodes as a model: it reads what others make, and makes what others read."""
    own = set(nodes)
    inputs: dict[str, ir.Value] = {}
    outputs: dict[str, ir.Value] = {}
    for node in nodes:
        for value in _read(node):
            outside = value.is_graph_input() and value.graph is model.graph
            made = value.producer()
            outside |= made is not None and made.graph is model.graph and made not in own
            if outside and value.const_value is None:
                inputs[_name(value)] = value
        for value in node.outputs:
            used = any(user not in own and user.graph is model.graph for user in value.consumers())
            if used or value.is_graph_output():
                outputs[_name(value)] = value
    graph = ir.convenience.extract(model.graph, list(inputs.values()), list(outputs.values()))
    graph.name = name
    return _model_of(model, graph)


def _model_of(model: ir.Model, graph: ir.Graph) -> ir.Model:
    graph.opset_imports.update(model.opset_imports)
    made = ir.Model(graph, ir_version=model.ir_version)
    ops.attach_functions(made)
    return made


def _owners(node: ir.Node, ranks: int, loads: Load | None) -> tuple[int, ...]:
    load = loads.get(str(node.name)) if isinstance(loads, Mapping) else loads
    up = node.inputs[3]
    assert up is not None
    assert up.const_value is not None
    count = len(up.const_value.numpy())
    if count % ranks:
        raise PlanError(
            f"{count} experts do not divide over {ranks} processes",
            fix="choose a number of processes that divides them",
        )
    if load is not None and len(load) != count:
        raise PlanError(
            f"load has {len(load)} numbers for the {count} experts of {node.name}",
            fix="give one for each expert",
        )
    shares = tuple(map(float, load)) if load is not None else (1.0,) * count
    placed = placement(shares, ranks, by_load=load is not None)
    owner = {expert: rank for rank, group in enumerate(placed) for expert in group}
    return tuple(owner[expert] for expert in range(count))


def _slice(model: ir.Model, node: ir.Node, owners: Sequence[int], rank: int) -> ir.Model:
    """The experts of one process: tokens ``[T, d]`` with one expert and one gate each."""
    own = np.flatnonzero(np.array(owners) == rank)
    tokens, chosen, gates = (value for value in node.inputs[:3] if value is not None)
    given = [
        _value("tokens", ir.DataType.FLOAT, ["T", _width(node)]),
        _value("experts", chosen.dtype or ir.DataType.INT64, ["T", 1]),
        _value("gates", gates.dtype or tokens.dtype or ir.DataType.FLOAT, ["T", 1]),
    ]
    weights = []
    for value in node.inputs[3:]:
        assert value is not None
        assert value.const_value is not None
        tensor = ir.tensor(np.ascontiguousarray(value.const_value.numpy()[own]), name=value.name)
        weights.append(ir.val(value.name, const_value=tensor))
    output = _value("answers", ir.DataType.FLOAT, ["T", _width(node)])
    inner = ir.Node(ops.DOMAIN, node.op_type, [*given, *weights], outputs=[output], name=node.name)
    graph = ir.Graph(given, [output], nodes=[inner], initializers=weights, name=f"rank{rank}")
    return _model_of(model, graph)


def _width(node: ir.Node) -> int:
    down = node.inputs[ops.input_names(node.op_type).index("down")]
    assert down is not None
    assert down.const_value is not None
    return int(down.const_value.numpy().shape[1])


def _value(name: str, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _exchange(node: ir.Node, part: str, owners: tuple[int, ...]) -> Exchange:
    tokens, experts, gates = (_name(value) for value in node.inputs[:3] if value is not None)
    return Exchange(
        node=node.name or part,
        part=part,
        tokens=tokens,
        experts=experts,
        gates=gates,
        output=_name(node.outputs[0]),
        owners=owners,
    )


def _names(values: Iterable[ir.Value]) -> tuple[str, ...]:
    return tuple(_name(value) for value in values)


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name


__all__ = ["Load", "Split", "split"]
