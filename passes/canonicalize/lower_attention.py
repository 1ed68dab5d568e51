"""Attention (opsets 23 and 24) in ops that every runtime has.

The definition is that of the ONNX operator:
https://onnx.ai/onnx/operators/onnx__Attention.html. The scale is applied to Q alone, where ONNX
Runtime merges it into the matrix product.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from sparsecc.passes.edit import constant
from sparsecc.passes.tape import Tape

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


def problem(node: ir.Node) -> str | None:
    """Why this Attention cannot be decomposed, if so."""
    inputs = [*node.inputs, *[None] * 7][:7]
    q, k, v, mask = inputs[:4]
    if any(value is not None for value in inputs[4:]) or len(_used_outputs(node)) > 1:
        return "Attention with a key/value cache or with its scores as an output"
    if q is None or k is None or v is None or q.dtype not in _FLOATS:
        return "Attention on a type that is not known to be float"
    if any(x.shape is None or len(x.shape) not in (3, 4) for x in (q, k, v)):
        return "Attention on inputs of unknown rank"
    precision = node.attributes.get_int("softmax_precision", q.dtype.value)
    if precision not in (0, q.dtype.value):
        return "Attention whose softmax has another precision than its inputs"
    if _scale(node, q) is None:
        return "Attention with a head size that is not known"
    if _group(node, q, k) is None:
        return "Attention with a number of heads that is not known"
    return _mask_problem(mask, k)


def _mask_problem(mask: ir.Value | None, k: ir.Value) -> str | None:
    """A mask shorter than the keys stands for a padded one, which needs its length known."""
    if mask is None:
        return None
    if mask.shape is None or mask.dtype is None:
        return "Attention with a mask of unknown shape or type"
    assert k.shape is not None
    have, keys = mask.shape[-1], k.shape[-2 if len(k.shape) == 4 else 1]
    if isinstance(have, int) and isinstance(keys, int) and have not in (1, keys):
        return f"Attention with a mask over {have} of {keys} keys"
    return None


def rewrite(model: ir.Model, node: ir.Node) -> None:
    """Replace the node by MatMul, mask, Softmax, MatMul."""
    tape = Tape(node)
    q, k, v, *rest = node.inputs
    assert q is not None and k is not None and v is not None
    scale, group = _scale(node, q), _group(node, q, k)
    assert scale is not None and group is not None, "checked by `problem`"
    flat = q.shape is not None and len(q.shape) == 3
    if flat:
        q_heads = node.attributes["q_num_heads"].as_int()
        kv_heads = node.attributes["kv_num_heads"].as_int()
        q = _split_heads(tape, q, q_heads)
        k, v = (_split_heads(tape, x, kv_heads) for x in (k, v))
    if group > 1:
        k, v = (_repeat_heads(tape, x, group) for x in (k, v))
    dtype = _numpy_dtype(node)
    scaled = tape.op("Mul", q, tape.constant(np.array(scale, dtype)))
    scores = tape.op("MatMul", scaled, tape.op("Transpose", k, perm=[0, 1, 3, 2]))
    softcap = node.attributes.get_float("softcap", 0.0)
    if softcap:
        cap = tape.constant(np.array(softcap, dtype))
        scores = tape.op("Mul", tape.op("Tanh", tape.op("Div", scores, cap)), cap)
    mask = rest[0] if rest else None
    bias = _bias(tape, mask, scores, bool(node.attributes.get_int("is_causal", 0)), dtype)
    if bias is not None:
        scores = tape.op("Add", scores, bias)
    y = tape.op("MatMul", tape.op("Softmax", scores, axis=-1), v)
    if bias is not None and mask is not None and _may_mask_a_row(mask):
        y = _zero_masked_rows(tape, y, bias, dtype)
    if flat:
        y = tape.op("Transpose", y, perm=[0, 2, 1, 3])
        tape.op("Reshape", y, tape.ints(0, 0, -1))
    tape.finish()


def _used_outputs(node: ir.Node) -> list[ir.Value]:
    used = [out for out in node.outputs[1:] if out.uses() or out.is_graph_output()]
    return [node.outputs[0], *used]


def _numpy_dtype(node: ir.Node) -> np.dtype[np.generic]:
    q = node.inputs[0]
    assert q is not None and q.dtype is not None
    return np.dtype(q.dtype.numpy())


def _scale(node: ir.Node, q: ir.Value) -> float | None:
    """The factor on Q·Kᵀ: the attribute, or 1 / √(head size)."""
    if "scale" in node.attributes:
        return node.attributes["scale"].as_float()
    assert q.shape is not None
    width = q.shape[-1]
    heads = node.attributes.get_int("q_num_heads", 0) if len(q.shape) == 3 else 1
    if not isinstance(width, int) or not heads:
        return None
    return 1.0 / math.sqrt(width // heads)


def _group(node: ir.Node, q: ir.Value, k: ir.Value) -> int | None:
    """Query heads per key head."""
    assert q.shape is not None and k.shape is not None
    if len(q.shape) == 3:
        pair = [node.attributes.get_int(name, 0) for name in ("q_num_heads", "kv_num_heads")]
    else:
        pair = [dim if isinstance(dim, int) else 0 for dim in (q.shape[1], k.shape[1])]
    queries, keys = pair
    return queries // keys if queries and keys and queries % keys == 0 else None


def _split_heads(tape: Tape, x: ir.Value, heads: int) -> ir.Value:
    """[B, L, H·E] → [B, H, L, E]."""
    split = tape.op("Reshape", x, tape.ints(0, 0, heads, -1))
    return tape.op("Transpose", split, perm=[0, 2, 1, 3])


def _repeat_heads(tape: Tape, x: ir.Value, group: int) -> ir.Value:
    """[B, H, S, E] → [B, H·group, S, E], every head repeated in place."""
    apart = tape.op("Unsqueeze", x, tape.ints(2))
    repeated = tape.op("Expand", apart, tape.ints(1, 1, group, 1, 1))
    shape = tape.op("Shape", x, start=2, end=4)
    merged = tape.op("Concat", tape.ints(0, -1), shape, axis=0)
    return tape.op("Reshape", repeated, merged)


def _bias(
    tape: Tape, mask: ir.Value | None, scores: ir.Value, causal: bool, dtype: np.dtype[np.generic]
) -> ir.Value | None:
    """What to add to the scores [B, H, L, S]: 0 or the mask's value, -inf where masked."""
    bias = mask
    if mask is not None and mask.dtype == ir.DataType.BOOL:
        bias = _choose(tape, mask, dtype)
    if not causal:
        return bias
    rows, columns = (
        tape.op(
            "Range",
            tape.constant(np.array(0, np.int64)),
            tape.op("Squeeze", tape.op("Shape", scores, start=axis, end=axis + 1), tape.ints(0)),
            tape.constant(np.array(1, np.int64)),
        )
        for axis in (2, 3)
    )
    seen = tape.op("LessOrEqual", columns, tape.op("Unsqueeze", rows, tape.ints(1)))
    lower = _choose(tape, seen, dtype)
    return lower if bias is None else tape.op("Add", bias, lower)


def _choose(tape: Tape, keep: ir.Value, dtype: np.dtype[np.generic]) -> ir.Value:
    """0 where `keep`, else -inf."""
    zero, masked = (tape.constant(np.array(x, dtype)) for x in (0.0, -np.inf))
    return tape.op("Where", keep, zero, masked)


def _may_mask_a_row(mask: ir.Value) -> bool:
    """Whether a query might see no key at all; a constant mask tells."""
    known = constant(mask)
    if known is None or known.ndim == 0:
        return True
    hidden = ~known if known.dtype == np.bool_ else np.isneginf(known.astype(np.float64))
    return bool(hidden.any())


def _zero_masked_rows(
    tape: Tape, y: ir.Value, bias: ir.Value, dtype: np.dtype[np.generic]
) -> ir.Value:
    """Zeros where a query sees no key: Softmax over -inf alone makes NaN of them."""
    best = tape.op("ReduceMax", bias, tape.ints(-1), keepdims=1)
    blind = tape.op("Equal", best, tape.constant(np.array(-np.inf, dtype)))
    return tape.op("Where", blind, tape.constant(np.array(0.0, dtype)), y)
