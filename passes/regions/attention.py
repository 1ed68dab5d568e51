"""Attention as exporters write it: reshapes and transposes around two products and a softmax."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sparsecc.backends.codegen.program import Step
from sparsecc.passes.edit import constant, is_op, scalar
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.quantize.region_step import bits
from sparsecc.passes.regions.unit import Unit

_BY_HEAD, _KEYS_TURNED, _TURNED = (0, 2, 1, 3), (0, 2, 3, 1), (0, 1, 3, 2)
_STACK_BY_HEAD = (2, 0, 3, 1, 4)
_MOST_DIM = 256
"""Features of a head that the library has room for."""


@dataclass
class _Found:
    """What has been matched so far: nodes, and the factor they put on the scores."""

    nodes: list[ir.Node] = field(default_factory=list)
    scale: float = 1.0

    def take(self, value: ir.Value | None, *op_types: str) -> ir.Node | None:
        """The node that makes `value`, if it is of these types; it is then part of the unit."""
        node = value.producer() if value is not None else None
        if node is None or not is_op(node, *op_types):
            return None
        if node not in self.nodes:
            self.nodes.append(node)
        return node

    def without_scale(self, value: ir.Value | None) -> ir.Value | None:
        """`value` before it was multiplied or divided by a number, which is noted."""
        node = value.producer() if value is not None else None
        if node is None or not is_op(node, "Mul", "Div"):
            return value
        numbers = [scalar(each) for each in node.inputs]
        at = 1 if numbers[1] is not None else 0
        factor = numbers[at]
        if not factor or (node.op_type == "Div" and at == 0):
            return value
        self.nodes.append(node)
        self.scale *= factor if node.op_type == "Mul" else 1 / factor
        return node.inputs[1 - at]


@dataclass(frozen=True)
class _Heads:
    """Where the heads of a query, key or value come from: [batch, tokens, features]."""

    source: ir.Value
    first: int
    heads: int
    dim: int


def attention(softmax: ir.Node, shapes: Shapes) -> Unit | None:
    """The attention around a Softmax, masked by a sum or not."""
    found = _Found([softmax])
    masked = _scores(softmax, found, shapes)
    context = _sole_reader(softmax.outputs[0], "MatMul")
    if masked is None or context is None or context.inputs[0] is not softmax.outputs[0]:
        return None
    product, mask = masked
    query = _heads(found.without_scale(product.inputs[0]), (_BY_HEAD,), found, shapes)
    key = _heads(found.without_scale(product.inputs[1]), (_KEYS_TURNED, _TURNED), found, shapes)
    value = _heads(context.inputs[1], (_BY_HEAD,), found, shapes)
    if query is None or key is None or value is None or query.dim > _MOST_DIM:
        return None
    if not {(each.heads, each.dim) for each in (key, value)} <= {(query.heads, query.dim)}:
        return None
    turned = _sole_reader(context.outputs[0], "Transpose")
    merged = _sole_reader(turned.outputs[0], "Reshape") if turned is not None else None
    if turned is None or merged is None or _perm(turned) != _BY_HEAD:
        return None
    wanted = shapes.terms(query.source)
    if wanted is None or shapes.terms(merged.outputs[0]) != (
        *wanted[:2],
        query.heads * query.dim,
    ):
        return None
    return _unit([*found.nodes, context, turned, merged], (query, key, value), mask, found.scale)


def _scores(
    softmax: ir.Node, found: _Found, shapes: Shapes
) -> tuple[ir.Node, ir.Value | None] | None:
    """The product of queries and keys, and the mask that is added to it."""
    x = softmax.inputs[0]
    if x is None or x.shape is None or len(x.shape) != 4 or x.dtype != ir.DataType.FLOAT:
        return None
    if softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return None
    mask = None
    total = found.take(x, "Add")
    if total is not None:
        made = [_made_by_product(value) for value in total.inputs]
        if not any(made):
            return None
        at = made.index(True)
        scores, mask = total.inputs[at], total.inputs[1 - at]
        if scores is None or mask is None or not _fits(mask, scores, total.outputs[0], shapes):
            return None
        x = scores
    product = found.take(found.without_scale(x), "MatMul")
    return None if product is None else (product, mask)


def _made_by_product(value: ir.Value | None) -> bool:
    scaled = _Found().without_scale(value)
    return scaled is not None and is_op(scaled.producer(), "MatMul")


def _fits(mask: ir.Value, scores: ir.Value, total: ir.Value, shapes: Shapes) -> bool:
    """Whether the mask spreads over the scores, and has a number for every key."""
    if mask.dtype != ir.DataType.FLOAT or mask.shape is None or not 1 <= len(mask.shape) <= 4:
        return False
    return mask.shape[-1] != 1 and shapes.equal(total, scores)


def _heads(
    value: ir.Value | None, perms: Iterable[tuple[int, ...]], found: _Found, shapes: Shapes
) -> _Heads | None:
    """Undo Transpose(Reshape(x)), scaled in between or not, or one part of a stack of such."""
    turn = found.take(value, "Transpose")
    if turn is None:
        return _of_stack(value, found, shapes) if _BY_HEAD in perms else None
    if _perm(turn) not in perms:
        return None
    inner = found.without_scale(turn.inputs[0])
    if _perm(turn) == _TURNED:
        return _heads(inner, (_BY_HEAD,), found, shapes)
    cut = found.take(inner, "Reshape")
    source = found.without_scale(cut.inputs[0]) if cut is not None else None
    if cut is None or source is None:
        return None
    outer, split = shapes.terms(source), shapes.terms(cut.outputs[0])
    if outer is None or split is None or len(outer) != 3 or len(split) != 4:
        return None
    heads, dim = split[2:]
    if not isinstance(heads, int) or not isinstance(dim, int):
        return None
    if split[:2] != outer[:2] or outer[2] != heads * dim:
        return None
    whole, first = _columns(source, found)
    return None if whole is None else _Heads(whole, first, heads, dim)


def _of_stack(value: ir.Value | None, found: _Found, shapes: Shapes) -> _Heads | None:
    """Undo one of n parts of Transpose(Reshape(x)) from [B, T, n·H·D] to [n, B, H, T, D]."""
    stack, index = _picked(value, found)
    turn = found.take(stack, "Transpose")
    cut = found.take(turn.inputs[0], "Reshape") if turn is not None else None
    source = cut.inputs[0] if cut is not None else None
    if turn is None or cut is None or source is None or _perm(turn) != _STACK_BY_HEAD:
        return None
    outer, split = shapes.terms(source), shapes.terms(cut.outputs[0])
    if outer is None or split is None or len(outer) != 3 or split[:2] != outer[:2]:
        return None
    parts, heads, dim = split[2:]
    if not (isinstance(parts, int) and isinstance(heads, int) and isinstance(dim, int)):
        return None
    if outer[2] != parts * heads * dim or not 0 <= index < parts:
        return None
    return _Heads(source, index * heads * dim, heads, dim)


def _picked(value: ir.Value | None, found: _Found) -> tuple[ir.Value | None, int]:
    """The value that `value` is one entry of along its first axis, and which."""
    gather = found.take(value, "Gather")
    if gather is not None:
        index = constant(gather.inputs[1])
        first = gather.attributes.get_int("axis", 0) == 0
        if index is None or index.ndim or not first:
            return None, 0
        return gather.inputs[0], int(index)
    squeeze = found.take(value, "Squeeze")
    cut = found.take(squeeze.inputs[0], "Slice") if squeeze is not None else None
    if squeeze is None or cut is None or _integers(squeeze.inputs[1:2]) != [0]:
        return None, 0
    numbers = _integers(cut.inputs[1:])
    if numbers is None or len(numbers) not in (3, 4):
        return None, 0
    start, end, axis, *step = numbers
    one = end == start + 1 and axis == 0 and step in ([], [1])
    return (cut.inputs[0], start) if one else (None, 0)


def _integers(values: Sequence[ir.Value | None]) -> list[int] | None:
    """The numbers of constants of one element each."""
    arrays = [constant(value) for value in values]
    if any(array is None or array.size != 1 for array in arrays):
        return None
    return [int(array.reshape(())) for array in arrays if array is not None]


def _columns(part: ir.Value, found: _Found) -> tuple[ir.Value | None, int]:
    """The value that `part` is a range of columns of, as one Split cuts it, and the first."""
    split = found.take(part, "Split")
    if split is None:
        return part, 0
    before = [value.shape[-1] if value.shape else None for value in split.outputs]
    widths = [width for width in before[: split.outputs.index(part)] if isinstance(width, int)]
    last = split.attributes.get_int("axis", 0) in (-1, 2)
    if not last or len(widths) != split.outputs.index(part):
        return None, 0
    return split.inputs[0], sum(widths)


def _sole_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    readers = value.consumers()
    return readers[0] if len(readers) == 1 and is_op(readers[0], op_type) else None


def _perm(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("perm", []))


def _unit(
    nodes: list[ir.Node], parts: tuple[_Heads, _Heads, _Heads], mask: ir.Value | None, scale: float
) -> Unit | None:
    if not math.isfinite(scale) or not np.isfinite(np.float32(scale)):
        return None
    names = tuple(str(part.source.name) for part in parts)
    fixed = constant(mask) is not None
    extra = () if mask is None else (str(mask.name),)
    heads, dim = parts[0].heads, parts[0].dim
    step = Step(
        "attention",
        str(nodes[-1].name),
        names if fixed else (*names, *extra),
        (str(nodes[-1].outputs[0].name),),
        extra if fixed else (),
        (heads, dim, *(part.first for part in parts), bits(scale)),
    )
    return Unit(tuple(nodes), step)
