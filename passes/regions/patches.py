"""The start of a vision transformer: pixels of an image, the patches, become tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from sparsecc.backends.codegen.program import Step
from sparsecc.backends.kernels.table import LEAST_FEATURES
from sparsecc.passes.edit import constant, is_op
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.fuse.terms import Term, times
from sparsecc.passes.fuse.views import joined, seen_through, trace
from sparsecc.passes.regions.unit import Unit


@dataclass
class _Start:
    """What has been matched so far: nodes, the last value, and constants by role."""

    nodes: list[ir.Node]
    value: ir.Value
    first: list[ir.Value] = field(default_factory=list)
    before: list[ir.Value] = field(default_factory=list)
    after: list[ir.Value] = field(default_factory=list)


def patches(turn: ir.Node, shapes: Shapes) -> Unit | None:
    """[N, C, H, W] turned to [N, H·W, C], class tokens before it, positions added to it."""
    start = _turned(turn, shapes)
    if start is None:
        return None
    image, found = start
    terms = shapes.terms(image)
    assert terms is not None
    batch, width = terms[:2]
    if not isinstance(width, int):
        return None
    _take_term(found, found.before, shapes)
    if _take_tokens(found, batch, width, shapes):
        _take_term(found, found.after, shapes)
    step = Step(
        "patches",
        str(turn.name),
        (str(image.name),),
        (str(found.value.name),),
        tuple(str(each.name) for each in (*found.first, *found.before, *found.after)),
        (int(width >= LEAST_FEATURES), len(found.before), len(found.after), len(found.first)),
    )
    return Unit(tuple(found.nodes), step)


def _turned(turn: ir.Node, shapes: Shapes) -> tuple[ir.Value, _Start] | None:
    """The image, and the nodes that make tokens of its pixels; a Reshape may follow the turn."""
    way, value = trace(turn.outputs[0], shapes), turn.outputs[0]
    if way is None:
        return None
    image, view, nodes = way.view.source, way.view, list(way.nodes)
    terms = shapes.terms(image)
    if terms is None or len(terms) != 4 or image.dtype != ir.DataType.FLOAT or view.offset:
        return None
    batch, width, *sides = terms
    pixels = times(*sides)
    wanted = [
        ((size, stride),) if size != 1 else ()
        for size, stride in (
            (batch, times(width, pixels)),
            (pixels, 1),
            (width, pixels),
        )
    ]
    after = _next(value)
    if len(view.dims) == 4 and after is not None:
        seen = seen_through(view, after, after.outputs[0], shapes)
        if seen is None:
            return None
        view, value = seen, after.outputs[0]
        nodes.append(after)
    if [joined(dim) for dim in view.dims] != wanted:
        return None
    return image, _Start(nodes, value)


def _next(value: ir.Value) -> ir.Node | None:
    """The one node that reads the numbers of a value; its shape others may read."""
    readers = [node for node in value.consumers() if not is_op(node, "Shape")]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def _take_term(found: _Start, terms: list[ir.Value], shapes: Shapes) -> None:
    """The sum with a constant for every token, where it comes next."""
    total = _next(found.value)
    known = shapes.terms(found.value)
    if total is None or known is None or not is_op(total, "Add"):
        return
    other = total.inputs[1] if total.inputs[0] is found.value else total.inputs[0]
    array = constant(other)
    shape = None if array is None else (1,) * (3 - array.ndim) + array.shape
    if other is None or array is None or array.dtype.name != "float32" or array.ndim < 2:
        return
    if shape == (1, *known[1:]):
        terms.append(other)
        found.nodes.append(total)
        found.value = total.outputs[0]


def _take_tokens(found: _Start, batch: Term, width: int, shapes: Shapes) -> bool:
    """Constant tokens that are put before the others, where that comes next; whether it does."""
    joint = _next(found.value)
    if joint is None or not is_op(joint, "Concat"):
        return False
    rank_axis = joint.attributes.get_int("axis", 0)
    if rank_axis not in (1, -2) or joint.inputs[-1] is not found.value:
        return False
    first, nodes = list[ir.Value](), list[ir.Node]()
    for value in joint.inputs[:-1]:
        source = _repeated(value, batch, nodes, shapes)
        array = constant(source)
        if source is None or array is None or array.dtype.name != "float32":
            return False
        if array.ndim != 3 or array.shape[0] != 1 or array.shape[2] != width:
            return False
        first.append(source)
    found.nodes += [node for node in nodes if node not in found.nodes] + [joint]
    found.first += first
    found.value = joint.outputs[0]
    return True


def _repeated(
    value: ir.Value | None, batch: Term, nodes: list[ir.Node], shapes: Shapes
) -> ir.Value | None:
    """The constant that `value` repeats for every image; what computes how often is taken too."""
    node = value.producer() if value is not None else None
    if value is None or node is None or constant(value) is not None:
        return value if batch == 1 else None
    source = node.inputs[0]
    before = None if source is None else shapes.terms(source)
    if not is_op(node, "Expand") or before is None or len(before) != 3:
        return None
    if shapes.terms(value) != (batch, *before[1:]):
        return None
    todo = [node]
    while todo:
        each = todo.pop()
        if each not in nodes:
            nodes.append(each)
        sizes = each.inputs[1:] if each is node else each.inputs
        if not is_op(each, "Shape"):
            makers = [size.producer() for size in sizes if size is not None]
            todo += [maker for maker in makers if maker is not None and maker not in nodes]
    return source
