"""Attention over the tokens of a grid becomes attention over the blocks that each head keeps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.passes import edit
from sparsecc.passes.attention.heads import Heads, heads_of
from sparsecc.passes.attention.match import Attention, match
from sparsecc.passes.attention.modes import Pattern
from sparsecc.passes.attention.rules import grid_of
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.tape import Tape
from sparsecc.quality.segments import static_nodes

_OPERANDS = 3
_TURN = (0, 2, 1, 3)


@dataclass(frozen=True)
class SelfAttention:
    """An attention whose queries and keys are as many, without a mask.

    Attributes:
        found: What computes it.
        parts: Queries, keys and values.
        heads: How many.
        tokens: Queries, and keys.
    """

    found: Attention
    parts: tuple[Heads, Heads, Heads]
    heads: int
    tokens: int

    @property
    def name(self) -> str:
        """Of its last node, which the op takes over."""
        return str(self.found.context.name)


def self_attentions(model: ir.Model) -> tuple[list[SelfAttention], dict[str, str]]:
    """All of a model in canonical form, in order; and name → why an attention is none of them."""
    ours, others = list[SelfAttention](), dict[str, str]()
    shapes, static = Shapes(model), static_nodes(model.graph)
    for node in edit.nodes_of(model, "Softmax"):
        found = match(node)
        if node.graph is not model.graph:
            found = "attention inside of a branch or loop"
        if isinstance(found, Attention):
            said = _understood(found, shapes, static)
            if isinstance(said, SelfAttention):
                ours.append(said)
            else:
                others[str(found.context.name)] = said
        elif found is not None:
            others[str(node.name)] = found
    return ours, others


def _understood(
    found: Attention, shapes: Shapes, static: Collection[ir.Node]
) -> SelfAttention | str:
    if found.terms:
        return "a mask over its scores"
    if found.recast or found.softmax.outputs[0].dtype != ir.DataType.FLOAT:
        return "an attention of other than float32"
    if found.is_flat:
        return "heads and batch in one dimension"
    q, k, v = (
        heads_of(found.product.inputs[0], shapes, shared=False),
        heads_of(found.product.inputs[1], shapes, turned=True, shared=False),
        heads_of(found.context.inputs[1], shapes, shared=False, scales=False),
    )
    if isinstance(q, str) or isinstance(k, str) or isinstance(v, str):
        return next(str(each) for each in (q, k, v) if isinstance(each, str))
    if any(edit.constant(each.value) is not None for each in (q, k, v)) or any(
        each.value.producer() in static for each in (q, k, v)
    ):
        return "queries, keys or values that are the same for every input"
    batch, heads, tokens, dim = q.dims
    if not (isinstance(heads, int) and isinstance(dim, int)):
        return "an open number of heads"
    if not isinstance(tokens, int) or not isinstance(k.dims[2], int):
        return "an open number of tokens: fix it to search for blocks"
    if k.dims[2] != tokens:
        return f"{tokens} queries for {k.dims[2]} keys"
    if k.dims != v.dims or k.dims[0] != batch or (k.dims[1], k.dims[3]) != (heads, dim):
        return "queries, keys and values of different heads"
    return SelfAttention(found, (q, k, v), heads, tokens)


def as_op(attention: SelfAttention) -> ir.Node:
    """Put the op in the place of an attention, without leaving anything out."""
    found, (q, k, v) = attention.found, attention.parts
    tape = Tape(found.context)
    scale = found.scale * q.scale * k.scale
    attend(tape, [each.put(tape) for each in (q, k, v)], float(scale))
    return tape.finish()[-1]


def keep(op: ir.Node, patterns: Sequence[Pattern]) -> None:
    """Let an attention that leaves nothing out keep these blocks, one pattern for each head.

    Heads that want their tokens in another order get them so, and give their results back.
    """
    moved = [at for at, each in enumerate(patterns) if each.order is not None]
    staying = [at for at, each in enumerate(patterns) if each.order is None]
    keep_by_parts(op, patterns, [heads for heads in (staying, moved) if heads])


def keep_by_parts(op: ir.Node, patterns: Sequence[Pattern], parts: Sequence[Sequence[int]]) -> None:
    """The same with one call for each part.

    Args:
        op: The attention.
        patterns: Of each head.
        parts: Heads that want their tokens in one order; all heads, each once.
    """
    tape, scale, made = Tape(op), op.attributes["scale"].as_float(), list[ir.Value]()
    parts = sorted(parts, key=list)
    for heads in parts:
        tokens: Sequence[ir.Value | None] = op.inputs
        order = patterns[heads[0]].order
        if len(parts) > 1:
            tokens = [_some(tape, value, heads) for value in op.inputs]
        if order is not None:
            tokens = _gathered(tape, tokens, "order", order, 2)
        index, grid = grid_of(np.stack([patterns[at].kept for at in heads]))
        grid[-2:] = patterns[heads[0]].block
        blocks = tape.weight("index", index), tape.weight("grid", grid)
        made.append(attend(tape, [*tokens, *blocks], scale))
        if order is not None:
            made[-1:] = _gathered(tape, made[-1:], "back", np.argsort(order), 2)
    if len(parts) == 1:
        tape.finish()
        return
    rows = _rows(tape, made, [head for heads in parts for head in heads])
    tape.op("Transpose", rows, perm=_TURN)
    turned_back = [each for each in op.outputs[0].consumers() if _turns(each)]
    tape.finish()
    for each in turned_back:  # rows are what it wants
        ir.convenience.replace_all_uses_with(each.outputs[0], rows)


def _some(tape: Tape, value: ir.Value | None, heads: Sequence[int]) -> ir.Value:
    """These heads of a value, taken before tokens are turned; a row of heads is a view."""
    turn = None if value is None else value.producer()
    source, axis, first, end = value, 1, heads[0], heads[-1] + 1
    if turn is not None and _turns(turn):
        source, axis = turn.inputs[0], 2
    if list(heads) == list(range(first, end)):
        bounds = (tape.ints(number) for number in (first, end, axis))
        part = tape.op("Slice", source, *bounds)
    else:
        (part,) = _gathered(tape, [source], "heads", np.array(heads), axis)
    return part if axis == 1 else tape.op("Transpose", part, perm=_TURN)


def _rows(tape: Tape, parts: Sequence[ir.Value], heads: Sequence[int]) -> ir.Value:
    """Results of parts ``[batch, tokens, heads, features]``, heads in their order."""
    turned = (tape.op("Transpose", each, perm=_TURN) for each in parts)
    flat = (tape.op("Reshape", each, tape.ints(0, 0, -1)) for each in turned)
    every = tape.op("Concat", *flat, axis=2)
    rows = tape.op("Reshape", every, tape.ints(0, 0, len(heads), -1))
    if list(heads) == sorted(heads):
        return rows
    (rows,) = _gathered(tape, [rows], "heads", np.argsort(heads), 2)
    return rows


def _turns(node: ir.Node) -> bool:
    """Whether it makes heads of tokens, or tokens of heads."""
    perm = node.attributes.get_ints("perm", [])
    return (
        edit.is_op(node, "Transpose")
        and tuple(perm) == _TURN
        and not node.outputs[0].is_graph_output()
    )


def attend(tape: Tape, inputs: Sequence[ir.Value | None], scale: float) -> ir.Value:
    """The op over queries, keys and values, and over an index and a grid of blocks if given."""
    rule = dict(zip(ops.RULE, (ops.UNBOUNDED, ops.UNBOUNDED, 0), strict=True))
    op_type = ops.attention_variant(blocks=len(inputs) > _OPERANDS)
    return tape.op(op_type, *inputs, scale=scale, **rule)


def _gathered(
    tape: Tape,
    values: Sequence[ir.Value | None],
    what: str,
    places: NDArray[np.integer],
    axis: int,
) -> list[ir.Value]:
    """Values in the order of these places along an axis."""
    index = tape.weight(what, np.asarray(places, np.int64))
    return [tape.op("Gather", value, index, axis=axis) for value in values]
