"""Moves reshapes and transposes of tokens behind the layers that compute token by token. Exact.

torch's MultiheadAttention turns [batch, tokens, features] to have its tokens first, multiplies, and
turns the result back; behind the product the two turns meet, and are none.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.passes.base import Context, Pass
from sparsecc.passes.edit import constant, fresh_name, is_op, new_initializer, scalar
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.terms import Term, Terms, over, times
from sparsecc.passes.fuse.views import VIEWS, Dim, View, joined, trace, whole

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
            elif is_op(node, "Mul"):
                modified |= _sink_both(node, shapes)
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
    tokens, start = [atom for dim in lead for atom in dim], whole(view.source, shapes)
    if terms is None or start is None or not features or not 0 < len(tokens) <= _TOKEN_AXES:
        return False
    others = [dim for dim in start.dims if not set(dim) & set(features)]
    if len(others) > _TOKEN_AXES:
        others = [dim for dim in others if dim]
    if _has_tokens_first(view.source, shapes):
        others.reverse()
    order = [atom for dim in others for atom in dim]
    count = times(*(size for size, _ in view.atoms))
    if set(order) != set(tokens) or count != times(*(size for size, _ in start.atoms)):
        return False
    as_it_lies = [joined(dim) for dim in (*others, features)] == [joined(d) for d in start.dims]
    if lead == others or (not as_it_lies and tokens == order and not _is_context(view.source)):
        return False
    write = _Writer(node, shapes)
    read = view.source if as_it_lies else write.read(start, others, features)
    if read is None:
        return False
    moved: ir.Value | None = write.compute(at, read, terms[-1])
    turned = [order.index(atom) for atom in tokens]
    if turned != sorted(turned) and moved is not None:
        moved = write.reshaped(moved, (*(size for size, _ in order), terms[-1]))
        moved = None if moved is None else write.turned(moved, [*turned, len(order)])
    result = None if moved is None else write.reshaped(moved, terms)
    if result is None:
        return False
    write.finish(result)
    return True


def _sink_both(node: ir.Node, shapes: Shapes) -> bool:
    """Let a product of two values that were reshaped alike be reshaped itself, as in SiLU."""
    makers = [value.producer() if value is not None else None for value in node.inputs]
    if not all(is_op(maker, "Reshape") for maker in makers):
        return False
    sources = [maker.inputs[0] for maker in makers if maker is not None]
    before, after = (
        {shapes.terms(value) for value in values if value is not None}
        for values in (sources, node.inputs)
    )
    terms = shapes.terms(node.outputs[0])
    if len(before) != 1 or None in before or after != {terms} or terms is None:
        return False
    write = _Writer(node, shapes)
    result = write.reshaped(write.product(sources), terms)
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


def _is_context(value: ir.Value) -> bool:
    """Whether a value is a product of two that vary, as the result of an attention is."""
    node = value.producer()
    return is_op(node, "MatMul") and node is not None and not any(map(_is_fixed, node.inputs))


def _is_fixed(value: ir.Value | None) -> bool:
    return constant(value) is not None


def _has_tokens_first(context: ir.Value, shapes: Shapes) -> bool:
    """Whether a value is the result of an attention over tokens that come before the batch."""
    node = context.producer()
    values = node.inputs[1] if node is not None and _is_context(context) else None
    way = trace(values, shapes) if values is not None else None
    if way is None or len(way.view.dims) < 3:
        return False
    *outer, tokens, _ = way.view.dims
    width = (shapes.terms(way.view.source) or (1,))[-1]
    steps = [step for dim in outer for _, step in dim if over(step, width) is not None]
    if not steps or not tokens or tokens[0][1] == steps[0]:
        return False
    return over(tokens[0][1], steps[0]) is not None


class _Writer:
    """New nodes in the place of one."""

    def __init__(self, node: ir.Node, shapes: Shapes) -> None:
        self._old, self._shapes = node, shapes
        self._nodes: list[ir.Node] = []
        assert isinstance(node.graph, ir.Graph)
        self._graph = node.graph

    def read(self, start: View, lead: list[Dim], features: Dim) -> ir.Value | None:
        """A source with these dimensions, where each of its own is part of one of them."""
        wanted = [*lead, features]
        atoms = [atom for dim in wanted for atom in dim]
        places = [start.dims.index((atom,)) for atom in atoms if (atom,) in start.dims]
        if sorted(places) != [at for at, dim in enumerate(start.dims) if dim]:
            return None
        ones = [at for at, dim in enumerate(start.dims) if not dim]
        turned = self.turned(start.source, [*ones, *places])
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

    def product(self, sources: list[ir.Value | None]) -> ir.Value:
        """What the old node makes of other values of one shape."""
        assert sources[0] is not None
        terms = self._shapes.terms(sources[0]) or ()
        return self._add(self._old.op_type, sources, terms, {}, name=self._old.name)

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
