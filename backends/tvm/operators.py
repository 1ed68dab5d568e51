"""Standard ops that TVM's importer takes wrongly, not with open sizes, or at any position."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsecc.passes.edit import constant

Operator = Callable[[Any, ir.Node, list[Any]], Any]
"""From the importer, the node and its operands to what it makes."""


def _inside(importer: Any, place: Any, size: Any) -> Any:
    """A position in [-size, size) as one in [0, size); others read the first or last element.

    No position that comes with data may reach foreign memory.
    """
    tirx = importer.tvm.tirx
    place = place.astype("int64")
    place = place + tirx.Select(place < 0, size, tirx.IntImm("int64", 0))
    return tirx.max(tirx.min(place, size - 1), tirx.IntImm("int64", 0))


def _gather(importer: Any, node: ir.Node, operands: list[Any]) -> Any:
    data, indices = operands
    axis = node.attributes.get_int("axis", 0) % len(data.ty.shape)
    behind = axis + len(indices.ty.shape)

    def take(x: Any, places: Any) -> Any:
        def element(*at: Any) -> Any:
            place = _inside(importer, places(*at[axis:behind]), x.shape[axis])
            return x(*at[:axis], place, *at[behind:])

        shape = [*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]]
        return importer.tvm.te.compute(shape, element, name="gather")

    return importer.bb.emit_te(take, data, indices)


def _gather_elements(importer: Any, node: ir.Node, operands: list[Any]) -> Any:
    axis = node.attributes.get_int("axis", 0) % len(operands[0].ty.shape)
    return _along(importer, axis, operands)


def _along(importer: Any, axis: int, operands: list[Any]) -> Any:
    """Elements at positions along one axis."""

    def take(x: Any, places: Any) -> Any:
        def element(*at: Any) -> Any:
            return x(*at[:axis], _inside(importer, places(*at), x.shape[axis]), *at[axis + 1 :])

        return importer.tvm.te.compute(places.shape, element, name="gather_elements")

    return importer.bb.emit_te(take, *operands)


def _gather_nd(importer: Any, node: ir.Node, operands: list[Any]) -> Any:
    together = node.attributes.get_int("batch_dims", 0)
    depth = operands[1].ty.shape[-1]

    def take(x: Any, places: Any) -> Any:
        outer, count = len(places.shape) - 1, int(depth)

        def element(*at: Any) -> Any:
            found = [
                _inside(importer, places(*at[:outer], number), x.shape[together + number])
                for number in range(count)
            ]
            return x(*at[:together], *found, *at[outer:])

        shape = [*places.shape[:outer], *x.shape[together + count :]]
        return importer.tvm.te.compute(shape, element, name="gather_nd")

    return importer.bb.emit_te(take, *operands)


def _scatter(importer: Any, node: ir.Node, operands: list[Any]) -> Any:
    """At constant positions: each element of the output is one of the data or of the updates."""
    data, updates = operands[0], operands[2]
    places = constant(node.inputs[1])
    dims = [int(dim) for dim in data.ty.shape]
    if places is None or node.attributes.get_string("reduction", "none") != "none":
        raise NotImplementedError("positions that are not constant, or sums of updates")
    which = np.full(dims, -1, np.int64)
    order = np.arange(math.prod(int(dim) for dim in updates.ty.shape))
    if node.op_type == "ScatterND":
        rows = tuple(np.moveaxis(places, -1, 0))
        which[rows] = order.reshape(which[rows].shape)
    else:
        axis = node.attributes.get_int("axis", 0)
        full = np.where(places < 0, places + dims[axis], places)
        np.put_along_axis(which, full, order.reshape(full.shape), axis)

    def choose(x: Any, flat: Any, source: Any) -> Any:
        tirx = importer.tvm.tirx

        def element(*at: Any) -> Any:
            place = source(*at)
            return tirx.if_then_else(place < 0, x(*at), flat(tirx.max(place, 0)))

        return importer.tvm.te.compute(x.shape, element, name="scatter")

    flat = importer.bb.emit(importer.tvm.relax.op.reshape(updates, [len(order)]))
    return importer.bb.emit_te(choose, data, flat, importer.constant(which))


def _one_hot(importer: Any, node: ir.Node, operands: list[Any]) -> Any:
    depth, values = constant(node.inputs[1]), constant(node.inputs[2])
    if depth is None or values is None:
        raise NotImplementedError("a depth, or values, that are not constant")
    count, rank = int(depth.reshape(())), len(operands[0].ty.shape)
    axis = node.attributes.get_int("axis", -1) % (rank + 1)

    def spread(places: Any, off_on: Any) -> Any:
        tirx = importer.tvm.tirx

        def element(*at: Any) -> Any:
            place = places(*at[:axis], *at[axis + 1 :]).astype("int64")
            place = place + tirx.Select(
                place < 0, tirx.IntImm("int64", count), tirx.IntImm("int64", 0)
            )
            return tirx.Select(place == at[axis], off_on(1), off_on(0))

        shape = [*places.shape[:axis], count, *places.shape[axis:]]
        return importer.tvm.te.compute(shape, element, name="one_hot")

    return importer.bb.emit_te(spread, operands[0], importer.constant(values))


def _prelu(importer: Any, node: ir.Node, operands: list[Any]) -> Any:
    op = importer.tvm.relax.op
    x, slope = operands
    below = importer.bb.emit(op.multiply(x, slope))
    negative = importer.bb.emit(op.less(x, importer.constant(np.zeros((), dtype_of(x)))))
    return importer.bb.emit(op.where(negative, below, x))


def dtype_of(expression: Any) -> str:
    """The name numpy has for the type of a Relax tensor."""
    return str(expression.ty.dtype)


def _cumsum(importer: Any, node: ir.Node, operands: list[Any]) -> Any:
    axis = constant(node.inputs[1])
    if axis is None:
        raise NotImplementedError("an axis that is not constant")
    topi, at = importer.tvm.topi, int(axis.reshape(()))
    backwards = node.attributes.get_int("reverse", 0)
    exclusive = bool(node.attributes.get_int("exclusive", 0))
    data = importer.bb.emit_te(topi.flip, operands[0], axis=at) if backwards else operands[0]
    made = importer.bb.emit_te(topi.cumsum, data, axis=at, exclusive=exclusive)
    return importer.bb.emit_te(topi.flip, made, axis=at) if backwards else made


def _top_k(importer: Any, node: ir.Node, operands: list[Any]) -> Any:
    """By counting: the rank of an element is how many come before it."""
    k = constant(node.inputs[1])
    if k is None:
        raise NotImplementedError("a number of elements that is not constant")
    count, largest = int(k.reshape(())), node.attributes.get_int("largest", 1)
    axis = node.attributes.get_int("axis", -1) % len(operands[0].ty.shape)
    te, tirx = importer.tvm.te, importer.tvm.tirx

    def ranks(x: Any, same: Any) -> Any:  # two tensors: TVM cannot schedule two places of one
        other = te.reduce_axis((0, x.shape[axis]), "other")

        def element(*at: Any) -> Any:
            mine, theirs = x(*at), same(*at[:axis], other, *at[axis + 1 :])
            ahead = theirs > mine if largest else theirs < mine
            before = tirx.any(ahead, tirx.all(theirs == mine, other < at[axis]))
            return te.sum(before.astype("int64"), axis=other)

        return te.compute(x.shape, element, name="ranks")

    def places(rank: Any) -> Any:
        at_axis = te.reduce_axis((0, rank.shape[axis]), "place")

        def element(*at: Any) -> Any:
            found = rank(*at[:axis], at_axis, *at[axis + 1 :]) == at[axis]
            return te.sum(
                tirx.Select(found, at_axis.var.astype("int64"), tirx.IntImm("int64", 0)),
                axis=at_axis,
            )

        shape = [*rank.shape[:axis], count, *rank.shape[axis + 1 :]]
        return te.compute(shape, element, name="places")

    x = operands[0]
    found = importer.bb.emit_te(places, importer.bb.emit_te(ranks, x, x))
    values = _along(importer, axis, [x, found])
    return [values, found]


def _resize(importer: Any, node: ir.Node, operands: list[Any]) -> Any:
    """Whole-number scales stay whole numbers, so that sizes are computed exactly."""
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scales is not None and scales.size and np.all(scales == np.round(scales)):
        operands = [*operands[:2], importer.tvm.relax.ShapeExpr([int(each) for each in scales])]
    return importer._standard(node, operands)[0]


def _range(importer: Any, node: ir.Node, operands: list[Any]) -> Any:
    """Of sizes: its own length is then one."""
    shape = importer.shapes.terms(node.outputs[0])
    numbers = [importer.shapes.numbers(value) for value in node.inputs]
    if shape is None or any(number is None for number in numbers):
        return importer._standard(node, operands)[0]
    terms = [importer.symbols.expression(number[0]) for number in numbers if number]
    if any(term is None for term in terms):
        return importer._standard(node, operands)[0]
    te = importer.tvm.te

    def count(start: Any, limit: Any, step: Any) -> Any:
        length = (limit - start + step - 1) // step
        if numbers[0] != (0,):  # otherwise it is a size, which is not negative
            length = te.max(length, 0)
        return te.compute((length,), lambda i: start + i * step, name="range")

    return importer.bb.emit_te(count, *terms)


OPERATORS: dict[str, Operator] = {
    "CumSum": _cumsum,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    "PRelu": _prelu,
    "Range": _range,
    "Resize": _resize,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "TopK": _top_k,
}
