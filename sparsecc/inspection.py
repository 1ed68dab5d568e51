"""``inspect``: every layer of a model, what it is, what would run it, and why."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsecc import ops, targets
from sparsecc.artifact import open_artifact
from sparsecc.capture import capture
from sparsecc.cost import roofline
from sparsecc.cost.model import Estimate, cost_model, total
from sparsecc.cost.rates import Sums
from sparsecc.passes import edit, pipeline
from sparsecc.passes.attention.rows import attention_rows
from sparsecc.passes.base import Context, Refusal, run
from sparsecc.passes.quantize.rows import int8_rows
from sparsecc.passes.quantize.to_int8 import ToInt8
from sparsecc.passes.regions.predict import between, context, of_layers, rest
from sparsecc.passes.regions.units import units_of
from sparsecc.passes.structured.carry_out import Factored, exact_factors, rewrite_layers
from sparsecc.passes.structured.detect import exact_structures
from sparsecc.passes.structured.rewrite import marks
from sparsecc.passes.structured.rows import merged
from sparsecc.passes.weights.choose import node_work, packed_estimate, whole_kernel
from sparsecc.passes.weights.dense_alone import DenseAlone
from sparsecc.passes.weights.dense_beside import DenseBeside
from sparsecc.passes.weights.dense_products import DenseProducts
from sparsecc.passes.weights.depthwise import Depthwise
from sparsecc.passes.weights.layers import find_layers, matrix, set_matrix
from sparsecc.passes.weights.pack_mixtures import PackMixtures, mixture_rows
from sparsecc.passes.weights.to_sparse import ToSparse
from sparsecc.report.rows import DENSE_KERNEL, DENSE_MATMUL, TVM_KERNEL, LayerRow
from sparsecc.targets import Target

FIXED_BLOCK, FIXED_OF = 4, 5
"""Of :func:`fixed`: one in so many blocks of so many rows is kept."""


def inspect(model: Any, target: str = "native", backend: str | None = None) -> list[LayerRow]:
    """One row per layer of a model or an artifact.

    Args:
        model: Anything :func:`sparsecc.compile` takes without example inputs, or the folder of an
            artifact.
        target: What times are estimated for; an artifact has its own.
        backend: What the model would become; by default what the target is for.

    Returns:
        Rows in the order of the graph, layers that cannot be pruned among them, with the reason.
    """
    if isinstance(model, (str, Path)) and Path(model).is_dir():
        return [LayerRow.from_json(row) for row in open_artifact(Path(model)).layers]
    hardware = targets.with_backend(targets.read(target), backend)
    ctx = Context(target=hardware)
    graph = capture(model)
    run(pipeline.EXACT_BEFORE, graph, ctx)
    _factor(graph, hardware)
    return rewrite(graph, hardware, ctx)


def _factor(graph: ir.Model, target: Target) -> None:
    """Put factors in the place of weights that have a structure exactly, where that is faster."""
    layers = {layer.name: layer for layer in find_layers(graph).layers}
    found = exact_structures(list(layers.values()), target, lambda *_: None)
    made = [exact_factors(layers[name], str(each)) for name, each in found.items()]
    rewrite_layers(graph, [each for each in made if isinstance(each, Factored)])


def rewrite(graph: ir.Model, target: Target, ctx: Context) -> list[LayerRow]:
    """Put sparse ops where they pay, fuse into them, and say what was chosen for each layer."""
    order = {node.name: at for at, node in enumerate(graph.graph.all_nodes())}
    parts = marks(graph.graph)
    refused = _refused_rows(graph, find_layers(graph).refusals, target)
    to_sparse = ToSparse(target)
    dense: Sequence[Depthwise | DenseProducts | DenseBeside | DenseAlone]
    dense = (Depthwise(), DenseProducts(target), DenseBeside(target))
    if target.family == "cuda":
        dense = ()  # kernels for GPUs are of sparse weights alone
    elif target.stands_alone:
        dense = (DenseAlone(target),)
    after = pipeline.EXACT_AFTER
    if target.family == "cuda":
        after = tuple(each for each in after if not isinstance(each, ToInt8))
    run([to_sparse, *dense, PackMixtures(target), *after], graph, ctx)
    rows = refused | {choice.row.name: choice.row for choice in to_sparse.choices}
    taken = {name: each.WHY for each in dense for name in each.replaced}
    for node in graph.graph:
        if node.name in taken and ops.is_sparse(node):
            ours = packed_estimate(node, target)
            rows[node.name] = dataclasses.replace(
                rows[node.name],
                kernel=whole_kernel(node),
                why=taken[node.name],
                est_ms=round(ours.ms, 6),
                spread=round(ours.spread, 4),
            )
    for name, row in int8_rows(graph, target).items():
        rows[name] = dataclasses.replace(row, op=rows[name].op)
    if target.stands_alone or target.family == "cuda":
        rows |= _without_runtime(graph, rows, target)
    rows = merged(rows, parts, target) | attention_rows(graph, target) | mixture_rows(graph, target)
    return sorted(rows.values(), key=lambda row: order.get(row.name, len(order)))


def _without_runtime(
    graph: ir.Model, rows: Mapping[str, LayerRow], target: Target
) -> dict[str, LayerRow]:
    """Rows of layers that no packed weight stands for: a step that reads the weight, or TVM."""
    in_library = target.family != "cuda"
    steps = {node.name for unit in units_of(graph)[0] for node in unit.nodes if in_library}
    return {
        name: dataclasses.replace(row, kernel=DENSE_MATMUL if name in steps else TVM_KERNEL)
        for name, row in rows.items()
        if row.kernel == DENSE_KERNEL
    }


def predicted(model: Any, target: str) -> tuple[Estimate, Sums]:
    """Time of a model's layers and of all between them, and what counts besides (``context``)."""
    hardware = targets.read(target)
    graph, ctx = capture(model), Context(target=hardware)
    run(pipeline.EXACT_BEFORE, graph, ctx)
    layers = of_layers(rewrite(graph, hardware, ctx))
    return total([*layers, between(graph, hardware)]), context(graph, hardware)


def fixed(graph: ir.Model, target: Target) -> Estimate:
    """Time of all of a model but its prunable layers, one run on one thread, once these are sparse.

    What surrounds layers depends on whether they run in the library; here all do.

    Args:
        graph: The dense model in canonical form; nothing changes it.
        target: Where it runs.
    """
    pruned, ctx = graph.clone(), Context(target=target)
    layers = find_layers(pruned).layers
    for layer in layers:
        weight = matrix(layer)
        kept = np.arange(len(weight))[:, None] // FIXED_BLOCK % FIXED_OF == 0
        set_matrix(layer, weight * kept)
    prunable = {layer.name for layer in layers}
    rows = [row for row in rewrite(pruned, target, ctx) if row.name not in prunable]
    return total([*of_layers(rows), rest(pruned, target)])


def _refused_rows(
    graph: ir.Model, refusals: Sequence[Refusal], target: Target
) -> dict[str, LayerRow]:
    reasons = {refusal.node: refusal.reason for refusal in refusals}
    return {
        node.name: _refused_row(node, reasons[node.name], target)
        for node in graph.graph.all_nodes()
        if node.name in reasons
    }


def _refused_row(node: ir.Node, why: str, target: Target) -> LayerRow:
    weight = edit.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    macs, density, flops, moved_bytes = 0, 1.0, 0.0, 0
    estimate = Estimate(0.0, 0.0)
    if weight is not None and weight.size:
        density = np.count_nonzero(weight) / weight.size
    if node.op_type == "Conv" and weight is not None:
        rows, shape = len(weight), node.outputs[0].shape
        positions = (dim if isinstance(dim, int) else 1 for dim in list(shape or ())[2:])
        macs = weight.size * math.prod(positions)
        groups = node.attributes.get_int("group", 1)
        work = node_work(node, rows, weight.size // rows, groups)
        estimate = cost_model(target).dense(work)
        flops, moved_bytes = roofline.demand(work, weight.size)
    return LayerRow(
        name=str(node.name),
        op=node.op_type,
        shape=None,
        macs=macs,
        density=density,
        pattern="dense",
        eligible=False,
        why=why,
        kernel=DENSE_KERNEL,
        est_ms=round(estimate.ms, 6),
        spread=round(estimate.spread, 4),
        dense_ms=round(estimate.ms, 6),
        flops=flops,
        moved_bytes=moved_bytes,
    )
