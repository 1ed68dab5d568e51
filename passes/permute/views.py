"""How labels flow where elements only change places: reshapes, transposes, cuts and joins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from sparsecc.passes.edit import constant
from sparsecc.passes.fuse.terms import Term, Terms
from sparsecc.passes.permute.flow import IN_PLACE, Flow
from sparsecc.passes.permute.labels import MOST, STAYS, Tag

Rule = Callable[[Flow, ir.Node], None]

MIXED = "channels are mixed with positions whose number is open"


def reshape(flow: Flow, node: ir.Node) -> None:
    """The same elements in the same order."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    before, after = flow.sizes(x), flow.sizes(out)
    tag = flow.tag(x)
    shapes = None if before is None or after is None else _shapes(tag, before, after)
    if shapes is None:
        flow.labels.stay(tag, node.name or "", MIXED)
        flow.put(out, flow.nothing(out))
        return
    spread, result = shapes
    flow.put(out, _spread(flow, tag, spread).reshape(result))


def _spread(flow: Flow, tag: Tag, shape: tuple[int, ...]) -> Tag:
    """A tag in which the positions that a channel has get labels, nested in the channel's."""
    if shape == tag.shape:
        return tag
    made = flow.labels.fresh(shape)
    positions = tuple(1 if old > 1 else new for old, new in zip(tag.shape, shape, strict=True))
    flow.labels.nest(made, tag, np.arange(math.prod(positions)).reshape(positions))
    flow.labels.stay(made[np.broadcast_to(tag == STAYS, shape)], "", IN_PLACE)
    return made


def _shapes(
    tag: Tag, before: Terms, after: Terms
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The shapes that a tag is spread to and then seen with; None where channels get mixed up.

    Dimensions are taken in the smallest groups of the same product; where labels differ inside a
    group, all its positions get some.
    """
    spread, result = list[int](), list[int]()
    for (start, end), (first, last) in _groups(before, after):
        if all(size == 1 for size in tag.shape[start:end]):
            spread += [1] * (end - start)
            result += [1] * (last - first)
            continue
        sizes = [*before[start:end], *after[first:last]]
        if not all(isinstance(size, int) for size in sizes):
            return None
        numbers = [int(str(size)) for size in sizes]
        if math.prod(numbers[: end - start]) != math.prod(numbers[end - start :]):
            return None
        spread += numbers[: end - start]
        result += numbers[end - start :]
    return (tuple(spread), tuple(result)) if math.prod(spread) <= MOST else None


Span = tuple[int, int]


def _groups(before: Terms, after: Terms) -> list[tuple[Span, Span]]:
    """The smallest runs of dimensions with equal products, found from both ends."""
    head, (i, j) = _matched(before, after)
    tail, (k, m) = _matched(before[i:][::-1], after[j:][::-1])
    rows, cols = len(before), len(after)
    middle = [((i, rows - k), (j, cols - m))] if i < rows - k or j < cols - m else []
    mirrored = [((rows - b, rows - a), (cols - d, cols - c)) for (a, b), (c, d) in reversed(tail)]
    return head + middle + mirrored


def _matched(before: Terms, after: Terms) -> tuple[list[tuple[Span, Span]], tuple[int, int]]:
    """Runs from the front with equal products, and where they end."""
    found, i, j = list[tuple[Span, Span]](), 0, 0
    while i < len(before) and j < len(after):
        end, last = i + 1, j + 1
        if before[i] != after[j]:
            left, right = before[i], after[j]
            while left != right:
                grow = _smaller(left, right)
                if grow is None or (end if grow else last) >= len(before if grow else after):
                    return found, (i, j)
                if grow:
                    left, end = _product(left, before[end]), end + 1
                else:
                    right, last = _product(right, after[last]), last + 1
        found.append(((i, end), (j, last)))
        i, j = end, last
    # what is left over has one element per dimension, or does not match
    if found and all(size == 1 for size in (*before[i:], *after[j:])):
        (start, _), (first, _) = found[-1]
        found[-1] = ((start, len(before)), (first, len(after)))
        i, j = len(before), len(after)
    return found, (i, j)


def _smaller(left: Term, right: Term) -> bool | None:
    """Whether the left product must grow; None where that is not known."""
    if isinstance(left, int) and isinstance(right, int):
        return left < right
    return None


def _product(one: Term, other: Term) -> Term:
    return one * other if isinstance(one, int) and isinstance(other, int) else (one, other)


def transpose(flow: Flow, node: ir.Node) -> None:
    """Dimensions in another order."""
    x = node.inputs[0]
    assert x is not None
    tag = flow.tag(x)
    order = node.attributes.get_ints("perm", list(reversed(range(tag.ndim))))
    flow.put(node.outputs[0], tag.transpose(order))


def concat(flow: Flow, node: ir.Node) -> None:
    """Side by side along one axis; along the others the labels are the same channels."""
    out = node.outputs[0]
    values = [value for value in node.inputs if value is not None]
    tags = [flow.tag(value) for value in values]
    axis = node.attributes.get_int("axis", 0) % tags[0].ndim
    name = node.name or ""
    tracked = any(tag.shape[axis] > 1 for tag in tags)
    if tracked:
        widths = [terms[axis] for value in values if (terms := flow.sizes(value)) is not None]
        if not all(isinstance(width, int) for width in widths):
            _leave(flow, node, tags, MIXED)
            return
    else:
        widths = [1] * len(tags)
    rest = np.broadcast_shapes(*(_without(tag.shape, axis) for tag in tags))
    if any(
        tag.shape[at] == 1 and size > 1
        for tag in tags
        for at, size in enumerate(rest)
        if at != axis
    ):
        _leave(flow, node, tags, IN_PLACE)
        return
    if not tracked:
        for tag in tags[1:]:
            flow.labels.join(tags[0], tag, name)
        flow.put(out, tags[0])
        return
    parts = [
        np.broadcast_to(tag, (*rest[:axis], int(str(width)), *rest[axis + 1 :]))
        for tag, width in zip(tags, widths, strict=True)
    ]
    flow.put(out, np.concatenate(parts, axis))


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 1, *shape[axis + 1 :])


def _leave(flow: Flow, node: ir.Node, tags: list[Tag], reason: str) -> None:
    for tag in tags:
        flow.labels.stay(tag, node.name or "", reason)
    flow.put(node.outputs[0], flow.nothing(node.outputs[0]))


def split(flow: Flow, node: ir.Node) -> None:
    """Consecutive parts along one axis."""
    x = node.inputs[0]
    assert x is not None
    tag, start = flow.tag(x), 0
    axis = node.attributes.get_int("axis", 0) % tag.ndim
    for output in node.outputs:
        if tag.shape[axis] == 1:
            flow.put(output, tag)
            continue
        sizes = flow.sizes(output)
        width = None if sizes is None else sizes[axis]
        if not isinstance(width, int):
            flow.labels.stay(tag, node.name or "", MIXED)
            flow.put(output, flow.nothing(output))
            continue
        flow.put(output, tag.take(range(start, start + width), axis))
        start += width


def cut(flow: Flow, node: ir.Node) -> None:
    """Ranges along axes, by Slice."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    tag = flow.tag(x)
    bounds = [None if value is None else constant(value) for value in node.inputs[1:]]
    starts, ends, axes, steps = [*bounds, None, None][:4]
    named = range(tag.ndim) if axes is None else [int(axis) % tag.ndim for axis in axes.ravel()]
    if axes is None and starts is not None:
        named = range(starts.size)
    for at, axis in enumerate(named):
        if tag.shape[axis] == 1:
            continue
        if starts is None or ends is None or (len(node.inputs) > 4 and steps is None):
            _leave(flow, node, [tag], MIXED)
            return
        step = 1 if steps is None else int(steps.ravel()[at])
        reach = slice(*_bounds(int(starts.ravel()[at]), int(ends.ravel()[at]), step, tag, axis))
        tag = tag.take(range(*reach.indices(tag.shape[axis])), axis)
    flow.put(out, tag)


def _bounds(start: int, end: int, step: int, tag: Tag, axis: int) -> tuple[int, int | None, int]:
    """Python's bounds: the end of a range that runs down to the first element has no number."""
    past = step < 0 and end < -tag.shape[axis]
    return start, None if past else end, step


def gather(flow: Flow, node: ir.Node) -> None:
    """Entries along an axis: of a table by what an input says, or some of a value's channels."""
    data, which = node.inputs[:2]
    assert data is not None
    assert which is not None
    tag, ranks = _table(flow, node, data), flow.sizes(which)
    axis = node.attributes.get_int("axis", 0) % tag.ndim
    flow.labels.stay(flow.tag(which), node.name or "", "channels choose entries of a table")
    if tag.shape[axis] == 1:
        shape = (*tag.shape[:axis], *(1,) * len(ranks or ()), *tag.shape[axis + 1 :])
        flow.put(node.outputs[0], tag.reshape(shape))
        return
    index = constant(which)
    if index is None:
        _leave(flow, node, [tag], "channels are chosen by what an input says")
        return
    taken = tag.take(index.astype(np.int64) % tag.shape[axis], axis)
    used = taken[taken != STAYS]
    if np.unique(used).size < used.size:  # copies, which may change places among themselves
        copies = flow.labels.fresh(taken.shape)
        flow.labels.stay(copies[taken == STAYS], node.name or "", IN_PLACE)
        flow.labels.nest(copies, taken)
        taken = copies
    flow.put(node.outputs[0], taken)


def _table(flow: Flow, node: ir.Node, data: ir.Value) -> Tag:
    """The tag of what entries are taken from; a table of vectors has labels along these."""
    operand = flow.operand(data, node)
    axis = node.attributes.get_int("axis", 0) % max(1, len(operand.sizes))
    if operand.tag is None and operand.label is not None and len(operand.sizes) == 2 and axis == 0:
        return operand.label((1,))
    return flow.tag(data)


def expand(flow: Flow, node: ir.Node) -> None:
    """Copies along axes; those along a batch, which comes first, stay where they are."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    tag, sizes, before = flow.tag(x), flow.sizes(out), flow.sizes(x)
    if sizes is None or before is None:
        _leave(flow, node, [tag], MIXED)
        return
    more = len(sizes) - tag.ndim
    tag = tag.reshape((1,) * more + tag.shape)
    before = (1,) * more + before
    shape = tuple(
        size if axis and before[axis] == 1 and isinstance(size, int) else old
        for axis, (size, old) in enumerate(zip(sizes, tag.shape, strict=True))
    )
    if shape == tag.shape or tag.size == 1 or math.prod(shape) > MOST:
        flow.put(out, tag)
        return
    copies = flow.labels.fresh(shape)
    flow.labels.nest(copies, tag)
    flow.labels.stay(copies[np.broadcast_to(tag == STAYS, shape)], node.name or "", IN_PLACE)
    flow.put(out, copies)


RULES: Mapping[str, Rule] = {
    "Concat": concat,
    "Expand": expand,
    "Flatten": reshape,
    "Gather": gather,
    "Reshape": reshape,
    "Slice": cut,
    "Split": split,
    "Squeeze": reshape,
    "Transpose": transpose,
    "Unsqueeze": reshape,
}
"""Op → how labels get through it."""
