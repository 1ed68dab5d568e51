"""Forms regions: maximal subgraphs of the nodes the kernel library has steps for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from sparsecc import ops
from sparsecc.backends.codegen.program import Program, Step
from sparsecc.backends.kernels.table import REGIONS
from sparsecc.ops import int8
from sparsecc.passes import edit
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.regions.steps import step_of

LEAST_STEPS = 2


class FormRegions(Pass):
    """Each region becomes a function of the model, and its nodes one call of it.

    The body of the function is the nodes themselves, so that a runtime without the library computes
    the same; the library runs the program that is the call's first input. Exact.
    """

    name = "form-regions"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Form every region worth a call; the largest where there are too many."""
        steps, reasons = _steps(model)
        groups = [group for group in _groups(model.graph, steps) if _pays(group)]
        groups = sorted(groups, key=len, reverse=True)[:REGIONS]
        for number, group in enumerate(groups):
            _outline(model, group, steps, f"{ops.REGION}{number}")
        if groups:
            model.graph.sort()
            for node, reason in reasons.items():
                ctx.refuse(self.name, node, reason)
        return bool(groups)


def _steps(model: ir.Model) -> tuple[dict[ir.Node, Step], dict[ir.Node, str]]:
    shapes = Shapes(model)
    steps, reasons = {}, {}
    for node in model.graph:
        step = step_of(node, shapes)
        if isinstance(step, Step):
            steps[node] = step
        elif node.op_type != "Constant":
            reasons[node] = step
    return steps, reasons


def _groups(graph: ir.Graph, steps: Mapping[ir.Node, Step]) -> list[list[ir.Node]]:
    """Connected nodes with steps between which no path leaves the group and returns.

    A node's level counts how often a path to it changes between nodes with and without a step. It
    never falls along a path, so a path between two nodes of one level stays on that level.
    """
    levels: dict[ir.Node, int] = {}
    group_of: dict[ir.Node, list[ir.Node]] = {}
    for node in graph:
        before = [value.producer() for value in node.inputs if value is not None]
        known = [each for each in before if each in levels]
        inside = node in steps
        levels[node] = max((levels[p] + (inside != (p in steps)) for p in known), default=0)
        if not inside:
            continue
        group_of[node] = group = [node]
        for other in known:
            joined = group_of.get(other)
            if joined is None or joined is group or levels[other] != levels[node]:
                continue
            joined.extend(group)
            group_of.update(dict.fromkeys(group, joined))
            group = joined
    order = {node: at for at, node in enumerate(graph)}
    unique = {id(group): group for group in group_of.values()}
    return [sorted(group, key=order.__getitem__) for group in unique.values()]


def _pays(group: Sequence[ir.Node]) -> bool:
    ours = (ops.DOMAIN, int8.DOMAIN)
    return len(group) >= LEAST_STEPS and any(node.domain in ours for node in group)


def _outside(group: Sequence[ir.Node]) -> tuple[list[ir.Value], list[ir.Value]]:
    """Values a group reads, constants included, and values that others read of it."""
    members = set(group)
    read = [value for node in group for value in node.inputs if value is not None]
    inputs = [value for value in dict.fromkeys(read) if value.producer() not in members]
    outputs = [
        value
        for node in group
        for value in node.outputs
        if value.is_graph_output() or any(user not in members for user in value.consumers())
    ]
    return inputs, outputs


def _outline(
    model: ir.Model, group: Sequence[ir.Node], steps: Mapping[ir.Node, Step], op_type: str
) -> None:
    inputs, outputs = _outside(group)
    data = [value for value in inputs if edit.constant(value) is None]
    program = Program(
        tuple(str(value.name) for value in data),
        tuple(str(value.name) for value in outputs),
        tuple(steps[node] for node in group),
    )
    by_name = {str(value.name): value for value in inputs}
    fixed = [by_name[name] for name in program.constants]
    rest = [value for value in inputs if value not in data and value not in fixed]
    operands = [*data, *fixed, *rest]
    call = ir.Node(
        ops.DOMAIN,
        op_type,
        [*_program_inputs(group[0], op_type, program), *operands],
        outputs=[ir.Value(type=value.type, shape=value.shape) for value in outputs],
        name=op_type.lower(),
        version=ops.VERSION,
    )
    function = _body(model, group, operands, outputs, op_type)
    model.functions[function.identifier()] = function
    model.opset_imports[ops.DOMAIN] = ops.VERSION
    graph = model.graph
    graph.insert_after(group[-1], call)
    for old, new in zip(outputs, call.outputs, strict=True):
        name = old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = f"{name}.inside", name
    graph.remove(list(group), safe=True)


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
