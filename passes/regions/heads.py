"""Where the heads of an attention lie, and where its results are brought together again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from sparsecc.backends.kernels.attention import HEADS_FIRST, ROWS, TOKENS_FIRST
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.terms import Term, Terms, over, times
from sparsecc.passes.fuse.views import Atom, Dim, View, joined, seen_through, trace, whole

_RANK = 4
"""Of ``[batch, heads, tokens, features]``."""


@dataclass(frozen=True)
class Heads:
    """Where the heads of queries, keys or values come from.

    Attributes:
        source: Where they lie.
        layout: How.
        lead: Its batch and tokens, in the order of the layout; tokens alone where there is none.
        first: The first feature.
        count: How many.
        dim: Features of each.
        nodes: What makes the heads of the source.
        scale: The factor on it.
    """

    source: ir.Value
    layout: int
    lead: Terms
    first: int
    count: int
    dim: int
    nodes: tuple[ir.Node, ...] = ()
    scale: float = 1.0

    @property
    def batch(self) -> Term:
        """The size of the batch."""
        return 1 if len(self.lead) == 1 else self.lead[self.layout == TOKENS_FIRST]


@dataclass(frozen=True)
class _Form:
    """How a batch and tokens lie in a source, and elements between heads, those before tokens."""

    layout: int
    lead: Terms
    batch: Dim
    tokens: Dim
    apart: Term | None = None


def _forms(terms: Terms) -> Iterator[_Form]:
    if len(terms) == _RANK:
        batch, heads, tokens, dim = terms
        head = times(tokens, dim)
        dims = _dims((batch, tokens), (times(heads, head), dim))
        yield _Form(HEADS_FIRST, (batch, tokens), dims[0], dims[1], head)
        terms = (*terms[:2], times(*terms[2:]))
    if len(terms) not in (2, 3):
        return
    *lead, width = terms
    dims = _dims(lead, [times(*lead[at + 1 :], width) for at in range(len(lead))])
    yield _Form(ROWS, tuple(lead), dims[0] if len(lead) > 1 else (), dims[-1])
    if len(lead) > 1:
        yield _Form(TOKENS_FIRST, tuple(lead), dims[1], dims[0])


def _dims(sizes: Terms | list[Term], steps: Terms | list[Term]) -> list[Dim]:
    return [((n, step),) if n != 1 else () for n, step in zip(sizes, steps, strict=True)]


def heads_of(
    value: ir.Value | None,
    shapes: Shapes,
    *,
    turned: bool = False,
    scales: bool = False,
    alone: bool = False,
) -> Heads | None:
    """The heads that a value is: ``[..., tokens, features]``, or these two turned.

    Args:
        value: The value.
        shapes: Of the model.
        turned: Whether its features come before its tokens.
        scales: Whether to look through products by, and quotients by, a number too.
        alone: Whether to look no farther than through what nothing else reads.
    """
    way = trace(value, shapes, scales=scales, alone=alone) if value is not None else None
    found = None if way is None else _matched(way.view, turned, shapes)
    if found is None or way is None:
        return bare(value, shapes) if not turned else None
    return Heads(way.view.source, *found, way.nodes, way.scale)


def bare(value: ir.Value | None, shapes: Shapes) -> Heads | None:
    """A value ``[batch, heads, tokens, features]`` as it is."""
    view = whole(value, shapes) if value is not None else None
    if view is None or len(view.dims) != _RANK:
        return None
    found = _matched(view, False, shapes)
    return None if found is None else Heads(view.source, *found)


def _matched(view: View, turned: bool, shapes: Shapes) -> tuple[int, Terms, int, int, int] | None:
    """Layout, leading sizes, first feature, heads and features of what a view shows."""
    terms = shapes.terms(view.source)
    if terms is None or len(view.dims) < 2:
        return None
    *outer, tokens, features = view.dims
    if turned:
        tokens, features = features, tokens
    by_batch, ends = tuple(atom for dim in outer for atom in dim), joined(features)
    dim = ends[0][0] if ends else 1
    if len(ends) > 1 or (ends and ends[0][1] != 1) or not isinstance(dim, int):
        return None
    for form in _forms(terms):
        heads = by_batch[len(form.batch) :]
        count = heads[0][0] if heads else 1
        if joined(tokens) != form.tokens or by_batch[: len(form.batch)] != form.batch:
            continue
        first = _first_feature(form, heads, dim, view.offset, terms)
        if isinstance(count, int) and first is not None:
            return form.layout, form.lead, first, count, dim
    return None


def _first_feature(form: _Form, heads: Dim, dim: int, offset: int, terms: Terms) -> int | None:
    """The feature at which heads begin, all heads counted; None where they do not lie so."""
    lies = len(heads) <= 1 and all(step == (form.apart or dim) for _, step in heads)
    if not lies or (len(terms) == _RANK and terms[-1] != dim):
        return None
    if form.apart is None:
        return offset
    before = over(offset, form.apart) if offset else 0
    return before * dim if isinstance(before, int) else None


def merged(value: ir.Value, query: Heads, shapes: Shapes) -> list[ir.Node] | None:
    """The nodes that make ``[batch, tokens, features]`` of results per head, as the queries lie."""
    view = whole(value, shapes)
    if view is None:
        return None
    lead, heads, dim = query.lead, query.count, query.dim
    tokens_first = query.layout == TOKENS_FIRST
    length = lead[0] if tokens_first else lead[-1]
    steps = [times(heads, length, dim), dim][-len(lead) :]
    ordered = reversed(steps) if tokens_first else steps
    counted = [*zip(lead, ordered, strict=True), (heads, times(length, dim)), (dim, 1)]
    atoms: list[Atom] = [atom for atom in counted if atom[0] != 1]
    nodes: list[ir.Node] = []
    while (readers := value.consumers()) and len(readers) == 1:
        step = seen_through(view, readers[0], readers[0].outputs[0], shapes)
        if step is None or value.is_graph_output():
            return None
        view, value = step, readers[0].outputs[0]
        nodes.append(readers[0])
        if shapes.terms(value) == (*lead, times(heads, dim)):
            return nodes if joined(view.atoms) == joined(atoms) else None
    return None
