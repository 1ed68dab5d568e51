"""Units of attention: as exporters write it, and as an op that leaves keys out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.backends.codegen.program import Step
from sparsecc.backends.kernels import attention as step_of
from sparsecc.backends.kernels.attention import CONSTANT, HEADS_FIRST, INPUT, MOST_DIM, NONE, ROWS
from sparsecc.passes.attention.match import Attention, match
from sparsecc.passes.edit import constant, is_op
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.regions.heads import Heads, bare, heads_of, merged
from sparsecc.passes.regions.unit import Unit

_RANK, _TOKENS, _OPERANDS = 4, 2, 3
"""Dimensions of heads, which of them are tokens, and how many operands have some."""
Parts = tuple[Heads, Heads, Heads]
"""Queries, keys and values."""


def attention(softmax: ir.Node, shapes: Shapes) -> Unit | None:
    """The attention around a Softmax, masked by a sum or not."""
    found = match(softmax)
    if not isinstance(found, Attention) or not _is_dense(found, shapes):
        return None
    query = heads_of(found.product.inputs[0], shapes, scales=True)
    key = heads_of(found.product.inputs[1], shapes, turned=True, scales=True)
    value = heads_of(found.context.inputs[1], shapes)
    if query is None or key is None or value is None or key.count != query.count:
        return None
    mask = found.terms[0].value if found.terms else None
    parts = (query, key, value)
    return _unit(found.nodes, parts, found.context.outputs[0], shapes, found.scale, mask=mask)


def _is_dense(found: Attention, shapes: Shapes) -> bool:
    """Whether the library has a step for it: in float32, with one mask that is added."""
    scores = found.product.outputs[0]
    if found.recast or found.guarded or scores.dtype != ir.DataType.FLOAT or len(found.terms) > 1:
        return False
    return all(
        term.shown is None and term.factor == 1.0 and _fits(term.value, scores, found, shapes)
        for term in found.terms
    )


def _fits(mask: ir.Value, scores: ir.Value, found: Attention, shapes: Shapes) -> bool:
    """Whether the mask spreads over the scores, and has a number for every key."""
    masked = found.softmax.inputs[0]
    if mask.dtype != ir.DataType.FLOAT or mask.shape is None or not 1 <= len(mask.shape) <= 4:
        return False
    if scores.shape is None or (len(scores.shape) == 3 and len(mask.shape) > 2):
        return False  # batch and heads are one dimension, which a mask has as two
    return mask.shape[-1] != 1 and masked is not None and shapes.equal(masked, scores)


def sparse_attention(node: ir.Node, shapes: Shapes) -> Unit | None:
    """A block-sparse attention, with the views around it where nothing else reads them.

    Tokens that are brought into another order for it, and back, are read and written in that order.
    """
    turns = _reordered(node)
    tokens = [turn.inputs[0] for turn in turns[:3]] if turns else node.inputs[:3]
    result = turns[-1].outputs[0] if turns else node.outputs[0]
    named = dict(zip(ops.input_names(node.op_type), node.inputs, strict=True))
    for views, parts in (
        (True, [heads_of(value, shapes, scales=at < 2) for at, value in enumerate(tokens)]),
        (True, [heads_of(value, shapes, alone=True) for value in tokens]),
        (False, [bare(value, shapes) for value in tokens]),
    ):
        query, key, value = parts
        if query is None or key is None or value is None:
            continue
        unit = _unit(
            [node, *turns],
            (query, key, value),
            result,
            shapes,
            node.attributes["scale"].as_float(),
            views=views,
            mask=named.get("mask"),
            blocks=(named["index"], named["grid"]) if "index" in named else (),
            rule=ops.rule_of(node),
            order=turns[0].inputs[1] if turns else None,
        )
        if unit is not None and unit.is_closed:
            return unit
    return None


def search(node: ir.Node, shapes: Shapes) -> Unit | None:
    """A search of blocks, with the views in front of it where nothing else reads them."""
    named = dict(zip(ops.input_names(node.op_type), node.inputs, strict=True))
    if any(constant(named[name]) is not None for name in ("index", "step")):
        return None
    tokens = (named["Q"], named["K"])
    for parts in (
        [heads_of(value, shapes, scales=True) for value in tokens],
        [bare(value, shapes) for value in tokens],
    ):
        unit = _search_of(node, parts, [str(each.name) for each in node.inputs[2:] if each])
        if unit is not None and unit.is_closed:
            return unit
    return None


def _search_of(node: ir.Node, parts: Sequence[Heads | None], rest: Sequence[str]) -> Unit | None:
    """The unit, or None where the library has no step for such queries and keys."""
    query, key = parts
    if query is None or key is None or not query.dim == key.dim <= MOST_DIM:
        return None
    read = node.attributes
    scale = read["scale"].as_float() * query.scale * key.scale
    if query.count % key.count or query.batch != key.batch or not np.isfinite(np.float32(scale)):
        return None
    before, behind = read["words"].as_ints()
    settings = step_of.Search(
        heads=query.count,
        groups=key.count,
        dim=query.dim,
        scale=scale,
        full=read["full"].as_int(),
        sparsity=read["sparsity"].as_float(),
        words=(before, behind),
        searches=tuple(read["searches"].as_ints()),
        layouts=(query.layout, key.layout),
        offsets=(query.first, key.first),
    )
    *given, grid = rest
    step = Step(
        "attention_blocks",
        str(node.name),
        (str(query.source.name), str(key.source.name), *given),
        (str(node.outputs[0].name),),
        (grid,),
        settings.attributes,
    )
    return Unit(tuple(dict.fromkeys([node, *query.nodes, *key.nodes])), step)


def _reordered(node: ir.Node) -> list[ir.Node]:
    """What brings tokens into another order for an attention, and its results back; or nothing."""
    free = ops.rule_of(node) == (ops.UNBOUNDED, ops.UNBOUNDED, 0)
    if not free or "mask" in ops.input_names(node.op_type):
        return []
    around = [value.producer() for value in node.inputs[:3] if value is not None]
    around += node.outputs[0].consumers()
    turns = [each for each in around if each is not None]
    orders = [order for each in turns if (order := _order_of(each)) is not None]
    if not len(around) == len(orders) == _OPERANDS + 1:
        return []
    order, *others, back = orders
    same = all(np.array_equal(order, other) for other in others)
    return turns if same and np.array_equal(back, np.argsort(order)) else []


def _order_of(node: ir.Node) -> NDArray[np.int64] | None:
    """The order that a node brings all tokens into."""
    if not is_op(node, "Gather") or node.attributes.get_int("axis", 0) != _TOKENS:
        return None
    order, made = constant(node.inputs[1]), node.inputs[0]
    tokens = None if made is None or made.shape is None else made.shape[_TOKENS]
    if order is None or order.dtype != np.int64 or tokens != order.size or order.ndim != 1:
        return None
    return order if np.array_equal(np.sort(order), np.arange(order.size)) else None


def _unit(
    nodes: Sequence[ir.Node],
    parts: Parts,
    result: ir.Value,
    shapes: Shapes,
    scale: float,
    *,
    views: bool = True,
    mask: ir.Value | None = None,
    blocks: Sequence[ir.Value | None] = (),
    rule: tuple[int, int, int] | None = None,
    order: ir.Value | None = None,
) -> Unit | None:
    """The unit, or None where the library has no step for such operands.

    Args:
        nodes: What computes it, without the views.
        parts: Its operands.
        result: Its result, heads first.
        shapes: Of the model.
        scale: What products are multiplied by, besides what is in the operands.
        views: Whether results are brought together by the step.
        mask: What is added to scores.
        blocks: Index and grid of the blocks that are kept.
        rule: Which keys are seen; scores that are too low then hide their key.
        order: In which tokens are read, and results written.
    """
    query, key, value = parts
    scale *= query.scale * key.scale
    fits = query.dim == key.dim == value.dim <= MOST_DIM and key.count == value.count
    if not fits or value.scale != 1.0 or not np.isfinite(np.float32(scale)):
        return None
    if query.count % key.count or len({part.batch for part in parts}) > 1:
        return None
    after = merged(result, query, shapes) if views else None
    if after is None and (result.shape is None or len(result.shape) != _RANK):
        return None
    sources = dict.fromkeys(made for part in parts for made in part.nodes)
    made = after[-1].outputs[0] if after else result
    settings = step_of.Attention(
        heads=query.count,
        groups=key.count,
        dim=query.dim,
        scale=scale,
        layouts=(query.layout, key.layout, value.layout, _result_layout(query, after)),
        offsets=(query.first, key.first, value.first),
        blocks=_from_where(blocks[0]) if blocks else NONE,
        mask=_from_where(mask),
        ordered=order is not None,
    )
    if rule is not None:
        left, right, sinks = rule
        settings = replace(settings, left=left, right=right, sinks=sinks, hides=True)
    extra = [each for each in (*blocks, mask, order) if each is not None]
    fixed = tuple(str(each.name) for each in extra if constant(each) is not None)
    given = tuple(str(each.name) for each in extra if constant(each) is None)
    read = tuple(str(part.source.name) for part in parts)
    name = str((after or nodes)[-1].name)
    step = Step("attention", name, (*read, *given), (str(made.name),), fixed, settings.attributes)
    return Unit(tuple(dict.fromkeys([*nodes, *sources, *(after or ())])), step)


def _result_layout(query: Heads, after: Sequence[ir.Node] | None) -> int:
    if after is None:
        return HEADS_FIRST
    return ROWS if query.layout == HEADS_FIRST else query.layout


def _from_where(value: ir.Value | None) -> int:
    if value is None:
        return NONE
    return INPUT if constant(value) is None else CONSTANT
