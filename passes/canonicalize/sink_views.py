"""Moves reshapes and transposes of tokens behind the layers that compute token by token. Exact.

torch's MultiheadAttention turns [batch, tokens, features] to have its tokens first, multiplies, and
turns the result back; behind the product the two turns meet, and are none.
"""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import constant, fresh_name, is_op, new_initializer, scalar
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.terms import Term, Terms, over, times
from sparsecc.passes.fuse.views import VIEWS, Dim, joined, trace, whole

_TOKEN_AXES = 2
"""Batch and tokens: more axes, such as the windows of an image, stay where they are."""
_ALONE = ("Erf", "Gelu", "Relu", "Sigmoid", "Tanh")


class SinkViews(Pass):
    """A layer reads batches of tokens as they lie in memory; what turned them turns its result.

    What then is the value that it is a view of, is that value.
    """

    name: ClassVar[str] = "sink-views"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Sink below every layer that computes token by token, in the order of the graph."""
        shapes, modified = Shapes(model), False
        for node in list(model.graph):
            if _is_undone(node, shapes):
                modified = True
            elif (by_token := _by_token(node)) is not None:
                modified |= _sink(node, by_token, shapes)
            elif is_op(node, *VIEWS):
                modified |= _straighten(node, shapes)
        return modified


def _is_undone(node: ir.Node, shapes: Shapes) -> bool:
    """Whether a node made a value that is just what it is a view of; it is taken out then."""
    if not is_op(node, "Reshape", "Transpose") or node.outputs[0].is_graph_output():
        return False
    found = trace(node.outputs[0], shapes)
    same = None if found is None else whole(found.view.source, shapes)
    if found is None or not found.nodes or same is None or found.view.offset:
        return False
    if [joined(dim) for dim in found.view.dims] != [joined(dim) for dim in same.dims]:
        return False
    node.outputs[0].replace_all_uses_with(found.view.source)
    return True


def _by_token(node: ir.Node) -> int | None:
    """Which input holds tokens, of a node that computes each of them from itself and constants."""
    arrays = [constant(value) for value in node.inputs]
    if is_op(node, "MatMul", "Gemm"):
        read = node.attributes
        plain = read.get_float("alpha", 1.0) == read.get_float("beta", 1.0) == 1.0
        weight = arrays[1]
        rows = all(array is not None and array.ndim == 1 for array in arrays[2:])
        fits = weight is not None and weight.ndim == 2 and not read.get_int("transA", 0)
        return 0 if fits and plain and rows and arrays[0] is None else None
    if is_op(node, "Add"):
        own = [at for at, array in enumerate(arrays) if array is None]
        row = [array for array in arrays if array is not None]
        return own[0] if len(own) == 1 and row[0].ndim <= 1 else None
    if is_op(node, "Mul", "Div"):
        own = [at for at, value in enumerate(node.inputs) if scalar(value) is None]
        return own[0] if len(own) == 1 else None
    return 0 if is_op(node, *_ALONE) else None


def _sink(node: ir.Node, at: int, shapes: Shapes) -> bool:
    """Let a node read tokens in the order of memory, if it does not do so."""
    x = node.inputs[at]
    found = trace(x, shapes) if x is not None else None
    if found is None or not found.nodes or found.view.offset or not found.view.dims:
        return False
    view, terms = found.view, shapes.terms(node.outputs[0])
    *lead, features = view.dims
    tokens = [atom for dim in lead for atom in dim]
    if terms is None or not features or len(tokens) > _TOKEN_AXES:
        return False
    order = sorted(tokens, key=functools.cmp_to_key(_slower_first))
    if lead == [(atom,) for atom in order]:
        return False
    source = shapes.terms(view.source)
    if source is None or times(*(size for size, _ in view.atoms)) != times(*source):
        return False
    write = _Writer(node, shapes)
    read = write.read(view.source, [(atom,) for atom in order], features)
    if read is None:
        return False
    made = write.compute(at, read, terms[-1])
    turned = [order.index(atom) for atom in tokens]
    moved = write.turned(made, [*turned, len(order)]) if turned != sorted(turned) else made
    result = write.reshaped(moved, terms)
    if result is None:
        return False
    write.finish(result)
    return True


def _straighten(node: ir.Node, shapes: Shapes) -> bool:
    """Write a view of tokens whose sizes are computed anew: a cut of features, and one turn.

    A view with a batch times heads has two open sizes on its way that no constants can say.
    """
    value = node.outputs[0]
    found = trace(value, shapes) if len(node.outputs) == 1 else None
    terms = shapes.terms(value)
    source = shapes.terms(found.view.source) if found is not None else None
    if found is None or terms is None or source is None or len(source) < 2:
        return False
    if not any(is_op(each, "Reshape") and constant(each.inputs[1]) is None for each in found.nodes):
        return False
    *lead, width = source
    rows = [(size, times(*source[at + 1 :])) for at, size in enumerate(lead) if size != 1]
    atoms = found.view.atoms
    features = sorted((a for a in atoms if a not in rows), key=lambda a: -_number(a[1]))
    if len(rows) != len(lead) or sorted(map(repr, rows)) != sorted(
        repr(atom) for atom in atoms if atom in rows
    ):
        return False
    count = times(*(size for size, _ in features))
    if (
        joined(features) != ((count, 1),)
        or not isinstance(count, int)
        or not isinstance(width, int)
    ):
        return False
    write = _Writer(node, shapes)
    result = write.cut(found.view.source, found.view.offset, count)
    split = write.reshaped(result, (*lead, *(size for size, _ in features)))
    if split is None or found.view.offset + count > width:
        return False
    order = [[*rows, *features].index(atom) for atom in atoms]
    turned = write.turned(split, order) if order != sorted(order) else split
    last = write.reshaped(turned, terms)
    if last is None or last is found.view.source:
        return False
    write.finish(last)
    return True


def _number(term: Term) -> int:
    return term if isinstance(term, int) else 0


def _slower_first(a: tuple[Term, Term], b: tuple[Term, Term]) -> int:
    return 0 if a == b else -1 if over(a[1], b[1]) is not None else 1


class _Writer:
    """New nodes in the place of one."""

    def __init__(self, node: ir.Node, shapes: Shapes) -> None:
        self._old, self._shapes = node, shapes
        self._nodes: list[ir.Node] = []
        assert isinstance(node.graph, ir.Graph)
        self._graph = node.graph

    def read(self, source: ir.Value, lead: list[Dim], features: Dim) -> ir.Value | None:
        """The tokens of the source, in the order of memory."""
        start = whole(source, self._shapes)
        wanted = [*lead, features]
        if start is None:
            return None
        if [joined(dim) for dim in start.dims] == [joined(dim) for dim in wanted]:
            return source
        atoms = [atom for dim in wanted for atom in dim]
        places = [start.dims.index((atom,)) for atom in atoms if (atom,) in start.dims]
        if sorted(places) != [at for at, dim in enumerate(start.dims) if dim]:
            return None
        ones = [at for at, dim in enumerate(start.dims) if not dim]
        turned = self.turned(source, [*ones, *places])
        return self.reshaped(turned, tuple(times(*(size for size, _ in dim)) for dim in wanted))

    def compute(self, at: int, x: ir.Value, outputs: Term) -> ir.Value:
        """What the old node makes of other tokens."""
        old, before = self._old, self._shapes.terms(x) or ()
        terms = (*before[:-1], outputs)
        if not is_op(old, "Gemm"):
            inputs = [x if place == at else value for place, value in enumerate(old.inputs)]
            return self._add(old.op_type, inputs, terms, dict(old.attributes), name=old.name)
        weight = constant(old.inputs[1])
        assert weight is not None
        if old.attributes.get_int("transB", 0):
            weight = np.ascontiguousarray(weight.T)
        turned = new_initializer(old, f"{old.name}.weight", weight)
        product = self._add("MatMul", [x, turned], terms, {}, name=old.name)
        bias = old.inputs[2] if len(old.inputs) > 2 else None
        return product if bias is None else self._add("Add", [product, bias], terms, {})

    def cut(self, x: ir.Value, first: int, count: int) -> ir.Value:
        """A range of features."""
        terms = self._shapes.terms(x)
        assert terms is not None
        if terms[-1] == count:
            return x
        bounds = (first, first + count, len(terms) - 1)
        names = ("first", "end", "axis")
        operands = [
            new_initializer(self._old, f"{self._old.name}.{name}", np.array([number], np.int64))
            for name, number in zip(names, bounds, strict=True)
        ]
        return self._add("Slice", [x, *operands], (*terms[:-1], count), {})

    def turned(self, x: ir.Value, order: list[int]) -> ir.Value:
        """The dimensions of a value in another order."""
        terms = self._shapes.terms(x)
        assert terms is not None
        perm = {"perm": ir.AttrInt64s("perm", order)}
        return self._add("Transpose", [x], tuple(terms[axis] for axis in order), perm)

    def reshaped(self, x: ir.Value, terms: Terms) -> ir.Value | None:
        """A value with other dimensions, where constants can say which."""
        before = self._shapes.terms(x)
        if before is None or before == terms:
            return None if before is None else x
        sizes = [
            0 if at < len(before) and before[at] == term else term if isinstance(term, int) else -1
            for at, term in enumerate(terms)
        ]
        if sizes.count(-1) > 1:
            return None
        constant_sizes = new_initializer(self._old, "sizes", np.array(sizes, np.int64))
        return self._add("Reshape", [x, constant_sizes], terms, {})

    def finish(self, result: ir.Value) -> None:
        """Put the nodes in; `result` takes the place of the old node's output."""
        old = self._old.outputs[0]
        self._graph.insert_before(self._old, self._nodes)
        name = old.name
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        old.name, result.name = f"{name}.before", name
        self._shapes.replaced(old, result)
        self._graph.remove(self._old, safe=True)

    def _add(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        terms: Terms,
        attributes: dict[str, ir.Attr],
        name: str | None = None,
    ) -> ir.Value:
        label = name or f"{self._old.name}/{op_type}_{len(self._nodes)}"
        dims = [term if isinstance(term, int | str) else None for term in terms]
        out = ir.Value(type=self._old.outputs[0].type, shape=ir.Shape(dims))
        node = ir.Node("", op_type, inputs, attributes.values(), outputs=[out], name=label)
        out.name = fresh_name(self._graph, f"{self._old.name}/{op_type}_{len(self._nodes)}")
        self._nodes.append(node)
        self._shapes.note(out, terms)
        return out
