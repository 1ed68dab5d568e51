"""com.microsoft.MultiHeadAttention, as ONNX Runtime's optimizer writes it, in standard ops. Exact.

The definition is that of the operator in ONNX Runtime (docs/ContribOperators.md there); a key that
its mask hides has ``mask_filter_value`` added to its score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.passes.base import Context, Pass
from sparsecc.passes.canonicalize.lower_attention import causal_bias, choose, split_heads
from sparsecc.passes.names import name_nodes
from sparsecc.passes.tape import Tape

DOMAIN, OP_TYPE = "com.microsoft", "MultiHeadAttention"
LEAST_OPSET = 13
"""Whose Unsqueeze and Squeeze take their axes as an input."""
_INPUTS = 10
_FLOAT = np.dtype(np.float32)


class LowerContrib(Pass):
    """Attention of ONNX Runtime's own domain becomes products and a softmax that passes can read.

    Forms with a cache, packed lengths or other types than float32 stay as they are.
    """

    name: ClassVar[str] = "lower-contrib"

    def call(self, model: ir.Model, ctx: Context) -> bool:
        """Rewrite each node on its own."""
        modified = False
        for node in list(model.graph.all_nodes()):
            if (node.domain, node.op_type) != (DOMAIN, OP_TYPE):
                continue
            form = _parse(node, model.opset_imports.get("", 0))
            if isinstance(form, str):
                ctx.refuse(self.name, node, form)
                continue
            _rewrite(node, form)
            modified = True
        if modified:
            name_nodes(model)
        return modified


@dataclass(frozen=True)
class _Form:
    """One node as it stands.

    Attributes:
        inputs: Query, key, value, bias, mask of keys and what is added to scores.
        ranks: Of query, key and value; 0 where there is none.
        heads: How many.
        widths: Features of queries and values, all heads together; of keys they are the queries'.
    """

    inputs: tuple[ir.Value | None, ...]
    ranks: tuple[int, int, int]
    heads: int
    widths: tuple[int, int]


_SEPARATE, _PACKED, _KEYS_PACKED, _BY_HEAD = (3, 3, 3), (5, 0, 0), (3, 5, 0), (3, 4, 4)


def _parse(node: ir.Node, opset: int) -> _Form | str:
    """The form of the node, or why there is no decomposition for it here."""
    inputs = [*node.inputs, *[None] * _INPUTS][:_INPUTS]
    query, key, value, bias, mask, added, *cache = inputs
    if opset < LEAST_OPSET:
        return f"attention of ONNX Runtime in a model of opset {opset}, below {LEAST_OPSET}"
    if any(cache) or any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        return "attention of ONNX Runtime with a key/value cache or its scores as an output"
    floats = [each for each in (query, key, value, bias, added) if each is not None]
    if query is None or any(each.dtype != ir.DataType.FLOAT for each in floats):
        return "attention of ONNX Runtime on a type that is not known to be float32"
    ranks = tuple(0 if each is None else _rank(each) for each in (query, key, value))
    if ranks not in (_SEPARATE, _PACKED, _KEYS_PACKED, _BY_HEAD):
        return "attention of ONNX Runtime on inputs of other ranks than are known"
    heads = node.attributes.get_int("num_heads", 0)
    widths = _widths(query, value, ranks)
    if heads < 1 or any(width % heads or width < 1 for width in widths):
        return "attention of ONNX Runtime with a number of features that is not known"
    if bias is not None and ranks != _SEPARATE:
        return "attention of ONNX Runtime with packed inputs and a bias"
    if mask is not None and _rank(mask) not in (2, 3):
        return "attention of ONNX Runtime with lengths in the place of a mask"
    if node.attributes.get_int("unidirectional", 0) and not _of_one_length(query, key, ranks):
        return "causal attention of ONNX Runtime between sequences not known to be as long"
    return _Form((query, key, value, bias, mask, added), ranks, heads, widths)


def _rank(value: ir.Value) -> int:
    return -1 if value.shape is None else len(value.shape)


def _widths(query: ir.Value, value: ir.Value | None, ranks: tuple[int, ...]) -> tuple[int, int]:
    def width(of: ir.Value) -> int:
        dims = list(of.shape or ())
        last = [dims[2], dims[4]] if len(dims) == 5 else dims[1::2] if len(dims) == 4 else dims[2:]
        return math.prod(dim if isinstance(dim, int) else 0 for dim in last)

    return width(query), width(query if value is None else value)


def _of_one_length(query: ir.Value, key: ir.Value | None, ranks: tuple[int, ...]) -> bool:
    if key is None or key is query:
        return True
    at = 2 if ranks == _BY_HEAD else 1
    return query.shape is not None and key.shape is not None and query.shape[1] == key.shape[at]


def _rewrite(node: ir.Node, form: _Form) -> None:
    """Replace the node by MatMul, masks, Softmax, MatMul."""
    tape = Tape(node)
    mask, added = form.inputs[4:6]
    q, k, v = _operands(tape, form)
    scale = node.attributes.get_float("scale", 0.0) or 1 / math.sqrt(form.widths[0] // form.heads)
    scaled = tape.op("Mul", q, tape.constant(np.array(scale, np.float32)))
    scores = tape.op("MatMul", scaled, tape.op("Transpose", k, perm=[0, 1, 3, 2]))
    product = scores
    if added is not None:
        scores = tape.op("Add", scores, added)
    if mask is not None:
        seen = tape.op("Cast", mask, to=int(ir.DataType.BOOL))
        hidden = node.attributes.get_float("mask_filter_value", -10000.0)
        at = tape.ints(1, 2) if _rank(mask) == 2 else tape.ints(1)
        bias = choose(tape, tape.op("Unsqueeze", seen, at), _FLOAT, hidden)
        scores = tape.op("Add", scores, bias)
    if node.attributes.get_int("unidirectional", 0):
        scores = tape.op("Add", scores, causal_bias(tape, product, _FLOAT))
    y = tape.op("MatMul", tape.op("Softmax", scores, axis=-1), v)
    tape.op("Reshape", tape.op("Transpose", y, perm=[0, 2, 1, 3]), tape.ints(0, 0, -1))
    tape.finish()


def _operands(tape: Tape, form: _Form) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Queries, keys and values as [batch, heads, tokens, features]."""
    query, key, value, bias = form.inputs[:4]
    assert query is not None  # checked above, as are the ranks of the others
    if form.ranks == _PACKED:
        q, k, v = (_part(tape, query, at) for at in range(3))
        return q, k, v
    if form.ranks == _KEYS_PACKED:
        assert key is not None
        k, v = (_part(tape, key, at) for at in range(2))
        return split_heads(tape, query, form.heads), k, v
    assert key is not None
    assert value is not None
    if form.ranks == _BY_HEAD:
        return split_heads(tape, query, form.heads), key, value
    parts = [query, key, value]
    if bias is not None:
        width, last = form.widths
        ends = (0, width, 2 * width, 2 * width + last)
        for at in range(3):
            row = tape.op("Slice", bias, tape.ints(ends[at]), tape.ints(ends[at + 1]))
            parts[at] = tape.op("Add", parts[at], row)
    q, k, v = (split_heads(tape, part, form.heads) for part in parts)
    return q, k, v


def _part(tape: Tape, packed: ir.Value, at: int) -> ir.Value:
    """[B, L, heads, parts, E] → one part, [B, heads, L, E]."""
    part = tape.op("Gather", packed, tape.constant(np.array(at, np.int64)), axis=3)
    return tape.op("Transpose", part, perm=[0, 2, 1, 3])
