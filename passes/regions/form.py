"""Forms regions: maximal subgraphs of the nodes the kernel library has steps for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc import ops
from sparsecc.backends.codegen.program import Program
from sparsecc.backends.kernels.table import REGION_VALUES, REGIONS
from sparsecc.ops import int8
from sparsecc.passes import edit
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.regions.chains import chained
from sparsecc.passes.regions.lanes import lay_out
from sparsecc.passes.regions.unit import Unit
from sparsecc.passes.regions.units import groups, units_of
from sparsecc.targets import Target

LEAST_NODES = 2
"""Of a region, unless it is of attention or a mixture of experts: the library has no op of them."""
_READ = (ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64)
_MADE = (ir.DataType.FLOAT, ir.DataType.INT32)


@dataclass(frozen=True)
class Region:
    """A region that was formed.

    Attributes:
        op_type: Of its call, and the name of its function.
        steps: How many steps the library runs.
        nodes: Names of the nodes in it.
    """

    op_type: str
    steps: int
    nodes: tuple[str, ...]


class FormRegions(Pass):
    """Each region becomes a function of the model, and its nodes one call of it.

    The body of the function is the nodes themselves, so that a runtime without the library computes
    the same; the library runs the program that is the call's first input. Exact.

    Attributes:
        formed: After ``call``, the regions.
    """

    name = "form-regions"

    def __init__(self, target: Target) -> None:
        self.target = target
        self.formed: list[Region] = []

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Form every region worth a call; the largest where there are too many."""
        units, reasons = units_of(model)
        units = chained(units, self.target)
        found = groups(model.graph, units)
        left = {id(group): _declined(group) for group in found}
        chosen = [group for group in found if not left[id(group)]]
        chosen = sorted(chosen, key=len, reverse=True)
        for group in chosen[REGIONS:]:
            left[id(group)] = f"the library runs at most {REGIONS} regions of a model"
        self.formed = [
            _outline(model, group, f"{ops.REGION}{number}")
            for number, group in enumerate(chosen[:REGIONS])
        ]
        if self.formed:
            model.graph.sort()
            for group in found:
                if reason := left[id(group)]:
                    reasons |= {node: reason for unit in group for node in unit.nodes}
            for node, reason in reasons.items():
                ctx.refuse(self.name, node, reason)
        return bool(self.formed)


def _declined(group: Sequence[Unit]) -> str:
    """Why a group is better left to the runtime; empty when it is worth a region."""
    ours = (ops.DOMAIN, int8.DOMAIN)
    nodes = [node for unit in group for node in unit.nodes]
    if len(nodes) < LEAST_NODES and not any(map(_needs_no_other, nodes)):
        return "no other step of the library beside it"
    if not any(node.domain in ours for node in nodes):
        return "no layer that skips zeros, and none of eight bits, among the steps beside it"
    inputs, outputs = _borders(group)
    data = [value for value in inputs if edit.constant(value) is None]
    if any(value.dtype not in _READ for value in data):
        return "a region reads float32, int32 and int64 alone"
    if any(value.dtype not in _MADE for value in outputs):
        return "a region makes float32 and int32 alone"
    if max(len(data), len(outputs)) > REGION_VALUES:
        return f"a region reads and makes at most {REGION_VALUES} values"
    return ""


def _needs_no_other(node: ir.Node) -> bool:
    return ops.is_attention(node) or ops.is_search(node) or ops.is_mixture(node)


def _borders(group: Sequence[Unit]) -> tuple[list[ir.Value], list[ir.Value]]:
    """Values a group reads, constants included, and values that others read of it."""
    members = {node for unit in group for node in unit.nodes}
    inside = [(node, unit) for unit in group for node in unit.nodes]
    read = [value for node, _ in inside for value in node.inputs if value is not None]
    inputs = [value for value in dict.fromkeys(read) if value.producer() not in members]
    outputs = [
        value
        for node, _ in inside
        for value in node.outputs
        if value.is_graph_output() or any(user not in members for user in value.consumers())
    ]
    return inputs, outputs


def _outline(model: ir.Model, group: Sequence[Unit], op_type: str) -> Region:
    inputs, outputs = _borders(group)
    data = [value for value in inputs if edit.constant(value) is None]
    read, made = ([str(value.name) for value in values] for values in (data, outputs))
    steps = lay_out([unit.step for unit in group], made)
    program = Program(tuple(read), tuple(made), steps)
    by_name = {str(value.name): value for value in inputs}
    fixed = [by_name[name] for name in program.constants]
    rest = [value for value in inputs if value not in data and value not in fixed]
    operands = [*data, *fixed, *rest]
    place = {node: at for at, node in enumerate(model.graph)}
    nodes = sorted((node for unit in group for node in unit.nodes), key=place.__getitem__)
    call = ir.Node(
        ops.DOMAIN,
        op_type,
        [*_program_inputs(nodes[0], op_type, program), *operands],
        outputs=[ir.Value(type=value.type, shape=value.shape) for value in outputs],
        name=op_type.lower(),
        version=ops.VERSION,
    )
    function = _body(model, nodes, operands, outputs, op_type)
    model.functions[function.identifier()] = function
    model.opset_imports[ops.DOMAIN] = ops.VERSION
    graph = model.graph
    graph.insert_after(nodes[-1], call)
    for old, new in zip(outputs, call.outputs, strict=True):
        name = old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = f"{name}.inside", name
    graph.remove(nodes, safe=True)
    return Region(op_type, len(program.steps), tuple(str(node.name) for node in nodes))


def _program_inputs(like: ir.Node, op_type: str, program: Program) -> list[ir.Value]:
    arrays: dict[str, np.ndarray] = {"program": program.encode(), "names": program.names()}
    return [
        edit.new_initializer(like, f"{op_type}.{name}", array) for name, array in arrays.items()
    ]


def _body(
    model: ir.Model,
    group: Sequence[ir.Node],
    operands: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    op_type: str,
) -> ir.Function:
    """The nodes of a group as a function; their values get plain names."""
    inside = {value: ir.Value(name=f"in{at}") for at, value in enumerate(operands)}
    nodes = []
    for at, node in enumerate(group):
        copy = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else inside[value] for value in node.inputs],
            attributes=[attr for attr in node.attributes.values() if isinstance(attr, ir.Attr)],
            outputs=[ir.Value(name=f"v{at}_{n}") for n in range(len(node.outputs))],
            name=node.name,
            version=node.version,
        )
        inside.update(zip(node.outputs, copy.outputs, strict=True))
        nodes.append(copy)
    unread = [ir.Value(name=name) for name in ("program", "names")]
    graph = ir.Graph(
        [*unread, *(inside[value] for value in operands)],
        [inside[value] for value in outputs],
        nodes=nodes,
        opset_imports=dict(model.opset_imports),
        name=op_type,
    )
    return ir.Function(ops.DOMAIN, op_type, "", graph=graph, attributes=[])
