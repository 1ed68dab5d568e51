"""What a region is made of: the units that cover a graph, and how they group."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from sparsecc import ops
from sparsecc.backends.codegen.program import Step
from sparsecc.passes.edit import is_op
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.regions import tokens
from sparsecc.passes.regions.attention import attention, search, sparse_attention
from sparsecc.passes.regions.gates import swish
from sparsecc.passes.regions.patches import patches
from sparsecc.passes.regions.steps import step_of
from sparsecc.passes.regions.unit import Match, Unit

MATCHES: tuple[tuple[str, Match], ...] = (
    *((op_type, sparse_attention) for op_type in ops.ATTENTIONS),
    (ops.SEARCH, search),
    ("Softmax", attention),
    ("Transpose", patches),
    ("LayerNormalization", tokens.layer_norm),
    ("Sqrt", tokens.norm_in_parts),
    ("MatMul", tokens.dense),
    ("Gemm", tokens.dense),
    ("Add", tokens.constant_term),
    ("Gather", tokens.select),
    ("Sigmoid", swish),
    ("HardSigmoid", swish),
    ("Squeeze", tokens.select_by_range),
    ("ReduceMean", tokens.mean_of_tokens),
)
"""Units of several nodes, or with constants, by the op type of a node that each has once. Earlier
rows take nodes from later ones."""


def units_of(model: ir.Model) -> tuple[list[Unit], dict[ir.Node, str]]:
    """Units that cover as many nodes of the main graph as possible, and why others have none.

    Returns:
        Units, no two of which share a node, and the reason for every node that is in none.
    """
    shapes = Shapes(model)
    units = _wide_units(model.graph, shapes)
    taken = {node for unit in units for node in unit.nodes}
    reasons = {}
    for node in model.graph:
        if node in taken or node.op_type == "Constant":
            continue
        step = step_of(node, shapes)
        if isinstance(step, Step):
            units.append(Unit((node,), step))
        else:
            reasons[node] = step
    return units, reasons


def _wide_units(graph: ir.Graph, shapes: Shapes) -> list[Unit]:
    units: list[Unit] = []
    taken: set[ir.Node] = set()
    for op_type, match in MATCHES:
        for node in graph:
            mine = node.op_type == op_type and (is_op(node, op_type) or ops.is_ours(node))
            unit = match(node, shapes) if mine and node not in taken else None
            if unit is not None and unit.is_closed and taken.isdisjoint(unit.nodes):
                units.append(unit)
                taken.update(unit.nodes)
    return units


def groups(graph: ir.Graph, units: Sequence[Unit], others: Sequence[Unit] = ()) -> list[list[Unit]]:
    """Connected units between which no path leaves the group and returns, in an order to run them.

    A level counts how often a path to a node changes between nodes with and without a unit. It
    never falls along a path, so a path between two units of one level stays on that level.

    Args:
        graph: What the units cover a part of.
        units: What is grouped.
        others: Units that are not, and run as a whole too; they share no node with these.
    """
    unit_of = {node: unit for unit in (*units, *others) for node in unit.nodes}
    among = set(units)
    levels: dict[ir.Node | Unit, int] = {}
    group_of: dict[Unit, list[Unit]] = {}
    for each in _order(graph, unit_of):
        inside = each in among
        known = _before(each, unit_of)
        levels[each] = max((levels[p] + (inside != (p in among)) for p in known), default=0)
        if not isinstance(each, Unit) or not inside:
            continue
        group_of[each] = group = [each]
        for other in known:
            joined = group_of.get(other) if isinstance(other, Unit) else None  # of `units` alone
            if joined is None or joined is group or levels[other] != levels[each]:
                continue
            joined.extend(group)
            group_of.update(dict.fromkeys(group, joined))
            group = joined
    place = {unit: at for at, unit in enumerate(group_of)}
    unique = {id(group): group for group in group_of.values()}
    return [sorted(group, key=place.__getitem__) for group in unique.values()]


def in_order(graph: ir.Graph, units: Sequence[Unit]) -> list[Unit]:
    """Units that cover a graph, each after what it reads, else as in the graph."""
    unit_of = {node: unit for unit in units for node in unit.nodes}
    return [each for each in _order(graph, unit_of) if isinstance(each, Unit)]


def _before(each: ir.Node | Unit, unit_of: Mapping[ir.Node, Unit]) -> list[ir.Node | Unit]:
    """What makes the values that a unit, or a node outside of all units, reads."""
    nodes = each.nodes if isinstance(each, Unit) else (each,)
    makers = [value.producer() for node in nodes for value in node.inputs if value is not None]
    found = [unit_of.get(maker, maker) for maker in makers if maker is not None]
    return [maker for maker in dict.fromkeys(found) if maker is not each and not _constant(maker)]


def _constant(each: ir.Node | Unit) -> bool:
    return isinstance(each, ir.Node) and each.op_type == "Constant"


def _order(graph: ir.Graph, unit_of: Mapping[ir.Node, Unit]) -> Iterator[ir.Node | Unit]:
    """Units and nodes outside of them, each after what it reads, else as in the graph."""
    place = {unit_of.get(node, node): at for at, node in enumerate(graph)}
    at_place = {at: each for each, at in place.items()}
    before = {each: _before(each, unit_of) for each in place}
    readers: dict[ir.Node | Unit, list[ir.Node | Unit]] = {each: [] for each in place}
    for each, makers in before.items():
        for maker in makers:
            readers[maker].append(each)
    waits = {each: len(makers) for each, makers in before.items()}
    ready = [place[each] for each, count in waits.items() if not count]
    heapq.heapify(ready)
    while ready:
        each = at_place[heapq.heappop(ready)]
        yield each
        for reader in readers[each]:
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready, place[reader])
