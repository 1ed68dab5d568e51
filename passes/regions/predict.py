"""Time of a whole rewritten model: its layers, and all that stands between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from sparsecc import ops
from sparsecc.backends.codegen.program import Step
from sparsecc.backends.kernels import attention
from sparsecc.backends.onnxruntime.generate import patterns
from sparsecc.cost import roofline
from sparsecc.cost.attention import seen_by_rule, work
from sparsecc.cost.chains import streamed
from sparsecc.cost.model import UNMEASURED_SPREAD, CostModel, Estimate, cost_model, total
from sparsecc.cost.rates import KINDS, Kind, Sums
from sparsecc.cost.roofline import UNKNOWN_BATCH, UNKNOWN_SIDE, UNKNOWN_TOKENS
from sparsecc.passes import edit
from sparsecc.passes.regions.chains import chained
from sparsecc.passes.regions.units import units_of
from sparsecc.passes.structured.rewrite import is_part
from sparsecc.passes.weights.choose import packed_work
from sparsecc.passes.weights.pack_mixtures import mixture_estimate
from sparsecc.report.rows import LayerRow
from sparsecc.targets import Target

SESSION_MS = 0.006
"""What one run of a session costs by itself, ms."""
FLOAT_BYTES = 4
_IMAGE = 4
_CHEAP = ("none", "relu", "relu6")
"""Activations that take no time behind a layer."""
_LIKE: Mapping[str, Kind] = {"select": "from_t64", "patches": "to_t64", "flatten": "from_t64"}
"""Steps that move values, as others do that are measured."""
_OF_INPUT = frozenset({"pool", "mean"})
"""Steps whose time goes by what they read."""


def predict_model(model: ir.Model, rows: Sequence[LayerRow], target: Target) -> Estimate:
    """Time of one run, one thread.

    Args:
        model: Rewritten, before regions are formed.
        rows: Its layers, as ``inspection.rewrite`` gave them.
        target: Where it runs.
    """
    return total([*of_layers(rows), rest(model, target)])


def of_layers(rows: Sequence[LayerRow]) -> list[Estimate]:
    """Times of the rows that :func:`rest` does not count: of layers, not of attention."""
    layers = [row for row in rows if row.op not in ops.OP_TYPES]
    return [Estimate(row.est_ms, row.spread) for row in layers]


def rest(model: ir.Model, target: Target) -> Estimate:
    """Time of everything but the layers of a rewritten model."""
    around = cost_model(target).step("context", context(model, target))
    parts = between(model, target)
    return total([parts] if around is None else [parts, around])


def context(model: ir.Model, target: Target) -> Sums:
    """What the rate of that name counts of a rewritten model."""
    units = chained(units_of(model)[0], target)
    values, sizes = _values(model), []
    for unit in units:
        sizes += [_elements(values.get(name)) for name in (*unit.step.inputs, *unit.step.outputs)]
        layers = [packed_work(node) for node in unit.nodes if ops.is_sparse(node)]
        sizes += [layer.rows * layer.points for layer in layers[:-1]]
    near = target.caches[-2] if len(target.caches) > 1 else 0
    large = sum(size for size in sizes if FLOAT_BYTES * size > near / 2)
    coded = sum(len(pattern.index) for pattern in patterns(model, target))
    return Sums(len(units), large, coded)


def _values(model: ir.Model) -> dict[str, ir.Value]:
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    values |= model.graph.initializers
    return values | {str(value.name): value for value in model.graph.inputs}


def between(model: ir.Model, target: Target) -> Estimate:
    """Time of the steps and nodes between layers, as measured on their own."""
    costs = cost_model(target)
    units, outside = units_of(model)
    units = chained(units, target)
    values = _values(model)
    parts = [Estimate(SESSION_MS, UNMEASURED_SPREAD)]
    for unit in units:
        layers = [node for node in unit.nodes if ops.is_sparse(node)]
        if unit.step.kind == "moe":
            parts.append(mixture_estimate(unit.nodes[0], target))
        elif not layers:
            parts.append(_step(unit.step, values, costs))
        for node in layers:
            parts += _beside_layer(node, costs)
        saved = costs.step("streamed", streamed([packed_work(node) for node in layers]))
        if saved is not None:
            parts.append(Estimate(-saved.ms, saved.spread))
    others = [node for node in outside if not (_is_layer(node) or is_part(node))]
    parts += [_node(node, target) for node in others if _computes(node)]
    return total(parts)


def _step(step: Step, values: Mapping[str, ir.Value], costs: CostModel) -> Estimate:
    """A step that is no layer; one that nothing is known of costs what it moves."""
    made, read = (_elements(values.get(name)) for name in (step.outputs[0], step.inputs[0]))
    if step.kind == "attention":
        found = costs.step("attention", _attention(step, values))
    elif step.kind == "pool":
        width = (_dims(values.get(step.inputs[0])) or [1])[-1]
        found = costs.step("pool", Sums(1, read, read / width))
    else:
        kind = _LIKE.get(step.kind, step.kind)
        known: Kind | None = next((each for each in KINDS if each == kind), None)
        elements = read if kind in _OF_INPUT else made
        found = costs.step(known, Sums(1, elements)) if known else None
    return found or Estimate(_moved_ms(read + made, costs.target), UNMEASURED_SPREAD)


def _attention(step: Step, values: Mapping[str, ir.Value]) -> Sums:
    """Scores that are computed: an index that each call brings is full."""
    settings = attention.read(step.attributes)
    queries, keys = (
        attention.tokens_of(_dims(values.get(name)), layout)
        for name, layout in zip(step.inputs[:2], settings.layouts, strict=False)
    )
    heads = _elements(values.get(step.outputs[0])) // (queries * settings.dim)  # of all batches
    share = seen_by_rule(queries, keys, settings.left, settings.right, settings.sinks)
    if settings.blocks != attention.NONE:
        fixed = settings.blocks == attention.CONSTANT
        index = values.get(step.constants[0] if fixed else step.inputs[3])
        grid = edit.constant(values.get(step.constants[int(fixed)]))
        kept = edit.constant(index)
        count = _elements(index) if kept is None else int(np.count_nonzero(kept >= 0))
        if grid is not None:
            by_head = count * int(grid[3] * grid[4]) // int(grid[0])
            share = min(share, by_head)
    return work(heads * share, settings.dim)


def _beside_layer(node: ir.Node, costs: CostModel) -> list[Estimate]:
    """What a layer of the library computes besides its sums."""
    variant, made = ops.parse(node.op_type), _elements(node.outputs[0])
    found = []
    if variant.activation not in _CHEAP:
        found.append(costs.step("activation", Sums(1, made)))
    if variant.residual:
        found.append(costs.step("add", Sums(1, made / 2)))  # it reads one term more
    return [each for each in found if each is not None]


def _node(node: ir.Node, target: Target) -> Estimate:
    """A node that ONNX Runtime runs."""
    moved = sum(_elements(value) for value in node.outputs)
    return Estimate(roofline.NODE_MS + _moved_ms(2 * moved, target), UNMEASURED_SPREAD)


def _is_layer(node: ir.Node) -> bool:
    """Whether a row stands for it."""
    return node.op_type in ("Conv", "MatMul", "Gemm") and any(
        value is not None and value.is_initializer() for value in node.inputs[1:2]
    )


def _computes(node: ir.Node) -> bool:
    """Whether a node does more than say sizes."""
    return any(value.dtype == ir.DataType.FLOAT for value in node.outputs) and (
        node.op_type != "Constant"
    )


def _moved_ms(elements: float, target: Target) -> float:
    return roofline.moved_ms(FLOAT_BYTES * elements, target)


def _dims(value: ir.Value | None) -> list[int]:
    if value is None or value.shape is None:
        return []
    fallback = UNKNOWN_SIDE if len(value.shape) == _IMAGE else UNKNOWN_TOKENS
    dims = [dim if isinstance(dim, int) else fallback for dim in value.shape]
    if dims and not isinstance(value.shape[0], int):
        dims[0] = UNKNOWN_BATCH
    return dims


def _elements(value: ir.Value | None) -> int:
    return math.prod(_dims(value))
