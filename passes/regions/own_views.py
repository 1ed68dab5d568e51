"""Gives every search of blocks views of its own."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from sparsecc import ops
from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import fresh_name
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.regions.heads import heads_of

_OPERANDS = 2
"""Queries and keys."""


class OwnViews(Pass):
    """Copies the reshapes and turns between a search and its tokens that others read too. Exact.

    An attention reads the same queries and keys. A step reads tokens where they lie and needs no
    views, but a view that is read by two would have to be made for both.
    """

    name: ClassVar[str] = "own-views"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Copy them; a search whose views are its own stays as it is."""
        shapes, modified = Shapes(model), False
        for search in [node for node in model.graph if ops.is_search(node)]:
            for at in range(_OPERANDS):
                heads = heads_of(search.inputs[at], shapes, scales=True)
                if heads is not None and _are_shared(heads.nodes, search):
                    search.replace_input_with(at, _copied(heads.nodes, search, model.graph))
                    modified = True
        return modified


def _are_shared(views: tuple[ir.Node, ...], search: ir.Node) -> bool:
    mine = {*views, search}
    made = [value for view in views for value in view.outputs]
    return any(value.is_graph_output() or set(value.consumers()) - mine for value in made)


def _copied(views: tuple[ir.Node, ...], search: ir.Node, graph: ir.Graph) -> ir.Value:
    """What copies of the views make, in front of the search."""
    mine = dict[ir.Value, ir.Value]()
    for view in views:
        copy = ir.Node(
            view.domain,
            view.op_type,
            [None if value is None else mine.get(value, value) for value in view.inputs],
            attributes=list(view.attributes.values()),
            outputs=[ir.Value(type=each.type, shape=each.shape) for each in view.outputs],
            name=f"{search.name}/{view.name}",
            version=view.version,
        )
        for old, new in zip(view.outputs, copy.outputs, strict=True):
            new.name = fresh_name(graph, f"{search.name}/{old.name}")
            mine[old] = new
        graph.insert_before(search, copy)
    return next(mine[value] for value in reversed(mine) if value in search.inputs)
