"""Attention as exporters write it: views of tokens around two products and a softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.backends.codegen.program import Step
from sparsecc.passes.attention.match import Attention, match
from sparsecc.passes.edit import constant
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.terms import Terms, times
from sparsecc.passes.fuse.views import (
    Atom,
    Dim,
    joined,
    seen_through,
    trace,
    whole,
)
from sparsecc.passes.quantize.region_step import bits
from sparsecc.passes.regions.unit import Unit

_MOST_DIM = 256
"""Features of a head that the library has room for."""


@dataclass(frozen=True)
class _Heads:
    """Where the heads of a query, key or value come from.

    Attributes:
        source: [batch, tokens, features].
        first: The first feature.
        heads: How many.
        dim: Features of each.
        tokens_first: Whether the source is [tokens, batch, features] instead.
        nodes: What makes the heads of the source.
        scale: The factor on it.
    """

    source: ir.Value
    first: int
    heads: int
    dim: int
    tokens_first: bool
    nodes: tuple[ir.Node, ...]
    scale: float

    @property
    def form(self) -> tuple[int, int, bool]:
        """What queries, keys and values have in common."""
        return self.heads, self.dim, self.tokens_first


def attention(softmax: ir.Node, shapes: Shapes) -> Unit | None:
    """The attention around a Softmax, masked by a sum or not."""
    found = match(softmax)
    if isinstance(found, str) or not _is_dense(found, shapes):
        return None
    query = _heads(found.product.inputs[0], False, shapes)
    key = _heads(found.product.inputs[1], True, shapes)
    value = _heads(found.context.inputs[1], False, shapes)
    if query is None or key is None or value is None or query.dim > _MOST_DIM:
        return None
    if not {each.form for each in (key, value)} <= {query.form} or value.scale != 1.0:
        return None
    merged = _merged(found.context, query, shapes)
    if merged is None:
        return None
    parts = (query, key, value)
    views = dict.fromkeys(node for part in parts for node in part.nodes)
    nodes = dict.fromkeys([*found.nodes, *views, *merged])
    mask = found.terms[0].value if found.terms else None
    return _unit(tuple(nodes), parts, mask, found.scale * query.scale * key.scale)


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


def _heads(value: ir.Value | None, turned: bool, shapes: Shapes) -> _Heads | None:
    """The heads that `value` is: [..., tokens, features], or these two turned."""
    way = trace(value, shapes, scales=True) if value is not None else None
    terms = shapes.terms(way.view.source) if way is not None else None
    if way is None or terms is None or len(terms) not in (2, 3):
        return None
    *outer, tokens, features = way.view.dims
    if turned:
        tokens, features = features, tokens
    by_batch = tuple(atom for dim in outer for atom in dim)
    ends, rest = joined(features), way.view.offset
    if len(ends) != 1 or ends[0][1] != 1 or not isinstance(ends[0][0], int):
        return None
    for tokens_first in (False, True)[: len(terms) - 1]:
        batch, rows = _axes(terms, tokens_first)
        heads = by_batch[len(batch) :]
        count = heads[0][0] if heads else 1
        if joined(tokens) != rows or by_batch[: len(batch)] != batch or not isinstance(count, int):
            continue
        if heads in ((), ((count, ends[0][0]),)):
            places = rest, count, ends[0][0], tokens_first
            return _Heads(way.view.source, *places, way.nodes, way.scale)
    return None


def _axes(terms: Terms, tokens_first: bool) -> tuple[Dim, Dim]:
    """How a batch and the tokens lie in a source of these dimensions."""
    *lead, width = terms
    steps = [times(*lead[at + 1 :], width) for at in range(len(lead))]
    dims = [((n, step),) if n != 1 else () for n, step in zip(lead, steps, strict=True)]
    if len(dims) == 1:
        return (), dims[0]
    return (dims[1], dims[0]) if tokens_first else (dims[0], dims[1])


def _merged(context: ir.Node, query: _Heads, shapes: Shapes) -> list[ir.Node] | None:
    """The nodes that make [batch, tokens, features] of the heads' results."""
    value = context.outputs[0]
    view, wanted = whole(value, shapes), shapes.terms(query.source)
    if view is None or wanted is None:
        return None
    lead = wanted[:-1]
    length = lead[0] if query.tokens_first else lead[-1]
    heads, dim = query.heads, query.dim
    steps = [times(heads, length, dim), dim][-len(lead) :]
    ordered = reversed(steps) if query.tokens_first else steps
    counted = [*zip(lead, ordered, strict=True), (heads, times(length, dim)), (dim, 1)]
    atoms: list[Atom] = [atom for atom in counted if atom[0] != 1]
    nodes: list[ir.Node] = []
    while (readers := value.consumers()) and len(readers) == 1:
        step = seen_through(view, readers[0], readers[0].outputs[0], shapes)
        if step is None or value.is_graph_output():
            return None
        view, value = step, readers[0].outputs[0]
        nodes.append(readers[0])
        if shapes.terms(value) == (*wanted[:-1], heads * dim):
            return nodes if joined(view.atoms) == joined(atoms) else None
    return None


def _unit(
    nodes: tuple[ir.Node, ...],
    parts: tuple[_Heads, _Heads, _Heads],
    mask: ir.Value | None,
    scale: float,
) -> Unit | None:
    if not math.isfinite(scale) or not np.isfinite(np.float32(scale)):
        return None
    names = tuple(str(part.source.name) for part in parts)
    fixed = constant(mask) is not None
    extra = () if mask is None else (str(mask.name),)
    step = Step(
        "attention",
        str(nodes[-1].name),
        names if fixed else (*names, *extra),
        (str(nodes[-1].outputs[0].name),),
        extra if fixed else (),
        (*parts[0].form, *(part.first for part in parts), bits(scale)),
    )
    return Unit(nodes, step)
