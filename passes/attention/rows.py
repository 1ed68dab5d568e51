"""What the report says of each attention that skips keys."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from sparsecc import ops
from sparsecc.cost.attention import work
from sparsecc.cost.model import Estimate
from sparsecc.passes.attention.estimate import Size, dense_ms, kept_ms, sets_ms, size_of
from sparsecc.passes.attention.online import density
from sparsecc.passes.attention.rules import Rule
from sparsecc.passes.attention.sets import Made, made_of
from sparsecc.passes.edit import constant
from sparsecc.report.rows import LayerRow
from sparsecc.targets import Target

_FLOAT_BYTES = 4
_IN_ONE_STEP = "few queries and keys, which are quicker in one step"


def attention_rows(model: ir.Model, target: Target) -> dict[str, LayerRow]:
    """Rows by the names of their nodes."""
    nodes = [node for node in model.graph if ops.is_attention(node)]
    return {str(node.name): _row(node, target) for node in nodes}


def _row(node: ir.Node, target: Target) -> LayerRow:
    named = dict(zip(ops.input_names(node.op_type), node.inputs, strict=True))
    made = made_of(node)
    if made is not None:
        return _of_sets(node, made, target)
    size = _size(named["Q"], named["K"])
    rule = Rule(*ops.rule_of(node))
    scores, pattern = rule.scores(size.queries, size.keys), _words(rule)
    index, grid = (constant(named.get(name)) for name in ("index", "grid"))
    search = _search(named.get("index"))
    if grid is not None:
        heads, *_, rows, columns = grid.tolist()
        pattern = f"blocks {rows}x{columns}"
        kept = math.prod(grid[:3].tolist()) if index is None else np.count_nonzero(index >= 0)
        scores = min(scores, int(kept) * rows * columns // heads)
    if search is not None:
        sparsity, words = (search.attributes[name].value for name in ("sparsity", "words"))
        scores = int(density(sparsity, size.queries, tuple(words)) * size.scores)
    return _written(node, size, scores, pattern, kept_ms(size, scores, target), target)


def _of_sets(node: ir.Node, made: Made, target: Target) -> LayerRow:
    size = size_of((*made.dims[:3], made.dims[2]), made.dims[3])
    count, slots = made.sets.tokens.shape
    ours = sets_ms(size, made.sets, target)
    return _written(node, size, count * slots**2, f"sets of {slots}", ours, target)


def _written(
    node: ir.Node, size: Size, scores: int, pattern: str, ours: Estimate, target: Target
) -> LayerRow:
    """The row of an attention of which so many scores of each head are left."""
    skips = scores < size.scores
    theirs = dense_ms(size, target) if skips else ours
    sums = work(size.batch * size.heads * scores, size.dim)
    moved = 2 * size.batch * size.heads * (size.queries + size.keys) * size.dim
    return LayerRow(
        name=str(node.name),
        op=node.op_type,
        shape=(size.queries, size.keys),
        macs=int(sums.macs),
        density=min(1.0, scores / max(1, size.scores)),
        pattern=pattern,
        eligible=True,
        why="these scores are left out in every run" if skips else _IN_ONE_STEP,
        kernel="attention",
        est_ms=round(ours.ms, 6),
        dense_ms=round(theirs.ms, 6),
        spread=round(ours.spread, 4),
        flops=2 * sums.macs,
        moved_bytes=_FLOAT_BYTES * moved,
    )


def _search(index: ir.Value | None) -> ir.Node | None:
    """What finds the blocks of an index while the model runs."""
    node = None if index is None else index.producer()
    return node if node is not None and ops.is_search(node) else None


def _size(q: ir.Value | None, k: ir.Value | None) -> Size:
    assert q is not None and k is not None  # noqa: PT018 - the op has no optional inputs
    dims = [[*(each.shape or [None] * 4)] for each in (q, k)]
    return size_of([*dims[0][:3], dims[1][2]], dims[0][3])


def _words(rule: Rule) -> str:
    """A rule in a few words."""
    if rule == Rule(right=0):
        return "causal"
    sides = [str(side) for side in (rule.left, rule.right) if side < ops.UNBOUNDED]
    sinks = f", {rule.sinks} first" if rule.sinks else ""
    return f"window {'+'.join(sides)}{sinks}" if rule.hides else "all"
