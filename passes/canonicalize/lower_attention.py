"""Attention (opsets 23 and 24) in ops that every runtime has.

The definition is that of the ONNX operator:
https://onnx.ai/onnx/operators/onnx__Attention.html. The scale is applied to Q alone, where ONNX
Runtime merges it into the matrix product.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsecc.passes.edit import constant
from sparsecc.passes.tape import Tape

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


@dataclasses.dataclass(frozen=True)
class _Form:
    """One Attention as it stands.

    Attributes:
        q: [B, heads, L, E], or [B, L, heads·E] in the flat form.
        k: [B, key heads, S, E], or flat.
        v: [B, key heads, S, Ev], or flat.
        mask: What broadcasts to [B, heads, L, S]: booleans, or numbers to add.
        flat: (heads, key heads) of the flat form, None otherwise.
        group: Query heads per key head.
        scale: Factor on Q·Kᵀ.
        dtype: Of everything but a boolean mask.
    """

    q: ir.Value
    k: ir.Value
    v: ir.Value
    mask: ir.Value | None
    flat: tuple[int, int] | None
    group: int
    scale: float
    dtype: np.dtype[Any]


def problem(node: ir.Node) -> str | None:
    """Why this Attention cannot be decomposed, if so."""
    form = _parse(node)
    return form if isinstance(form, str) else None


def rewrite(model: ir.Model, node: ir.Node) -> None:
    """Replace the node by MatMul, mask, Softmax, MatMul."""
    form = _parse(node)
    assert isinstance(form, _Form), form
    tape = Tape(node)
    q, k, v = form.q, form.k, form.v
    if form.flat is not None:
        heads, key_heads = form.flat
        q, k, v = (split_heads(tape, x, n) for x, n in ((q, heads), (k, key_heads), (v, key_heads)))
    if form.group > 1:
        k, v = (_repeat_heads(tape, x, form.group) for x in (k, v))
    scaled = tape.op("Mul", q, tape.constant(np.array(form.scale, form.dtype)))
    scores = tape.op("MatMul", scaled, tape.op("Transpose", k, perm=[0, 1, 3, 2]))
    softcap = node.attributes.get_float("softcap", 0.0)
    if softcap:
        cap = tape.constant(np.array(softcap, form.dtype))
        scores = tape.op("Mul", tape.op("Tanh", tape.op("Div", scores, cap)), cap)
    bias = _bias(tape, form, scores, bool(node.attributes.get_int("is_causal", 0)))
    if bias is not None:
        scores = tape.op("Add", scores, bias)
    y = tape.op("MatMul", tape.op("Softmax", scores, axis=-1), v)
    if bias is not None and form.mask is not None and _may_mask_a_row(form.mask):
        y = _zero_masked_rows(tape, y, bias, form.dtype)
    if form.flat is not None:
        y = tape.op("Transpose", y, perm=[0, 2, 1, 3])
        tape.op("Reshape", y, tape.ints(0, 0, -1))
    tape.finish()


def _parse(node: ir.Node) -> _Form | str:
    """The form of the node, or why there is no decomposition for it here."""
    q, k, v, mask, *cache = [*node.inputs, *[None] * 7][:7]
    if any(cache) or any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        return "Attention with a key/value cache or with its scores as an output"
    if q is None or k is None or v is None or q.dtype not in _FLOATS:
        return "Attention on a type that is not known to be float"
    ranks = {None if x.shape is None else len(x.shape) for x in (q, k, v)}
    if ranks not in ({3}, {4}) or q.shape is None or k.shape is None:
        return "Attention on inputs of unknown rank"
    if node.attributes.get_int("softmax_precision", 0) not in (0, q.dtype.value):
        return "Attention whose softmax has another precision than its inputs"
    if ranks == {3}:
        names = ("q_num_heads", "kv_num_heads")
        heads, key_heads = (node.attributes.get_int(name, 0) for name in names)
    else:
        heads, key_heads = (dim if isinstance(dim, int) else 0 for dim in (q.shape[1], k.shape[1]))
    if not heads or not key_heads or heads % key_heads:
        return "Attention with a number of heads that is not known"
    width = q.shape[-1]
    if "scale" in node.attributes:
        scale = node.attributes["scale"].as_float()
    elif isinstance(width, int):
        scale = 1.0 / math.sqrt(width if ranks == {4} else width // heads)
    else:
        return "Attention with a head size that is not known"
    flat = (heads, key_heads) if ranks == {3} else None
    group, dtype = heads // key_heads, np.dtype(q.dtype.numpy())
    return _mask_problem(mask, k) or _Form(q, k, v, mask, flat, group, scale, dtype)


def _mask_problem(mask: ir.Value | None, k: ir.Value) -> str | None:
    """Why the mask cannot be used as it is; a short one stands for a padded one."""
    if mask is None:
        return None
    if mask.shape is None or k.shape is None or mask.dtype is None:
        return "Attention with a mask of unknown shape or type"
    have, keys = mask.shape[-1], k.shape[-2 if len(k.shape) == 4 else 1]
    if isinstance(have, int) and isinstance(keys, int) and have not in (1, keys):
        return f"Attention with a mask over {have} of {keys} keys"
    return None


def split_heads(tape: Tape, x: ir.Value, heads: int) -> ir.Value:
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


def _bias(tape: Tape, form: _Form, scores: ir.Value, causal: bool) -> ir.Value | None:
    """What to add to the scores [B, H, L, S]: 0 or the mask's value, -inf where masked."""
    bias = form.mask
    if form.mask is not None and form.mask.dtype == ir.DataType.BOOL:
        bias = choose(tape, form.mask, form.dtype)
    if not causal:
        return bias
    lower = causal_bias(tape, scores, form.dtype)
    return lower if bias is None else tape.op("Add", bias, lower)


def causal_bias(tape: Tape, scores: ir.Value, dtype: np.dtype[Any]) -> ir.Value:
    """What hides later keys of scores [B, H, L, S]: [L, S]."""
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
    return choose(tape, seen, dtype)


def choose(
    tape: Tape, keep: ir.Value, dtype: np.dtype[Any], masked_by: float = -np.inf
) -> ir.Value:
    """0 where `keep`, else what masks."""
    zero, masked = (tape.constant(np.array(x, dtype)) for x in (0.0, masked_by))
    return tape.op("Where", keep, zero, masked)


def _may_mask_a_row(mask: ir.Value) -> bool:
    """Whether a query might see no key at all; a constant mask tells."""
    known = constant(mask)
    if known is None or known.ndim == 0:
        return True
    hidden = (
        np.logical_not(known) if known.dtype == np.bool_ else np.isneginf(known.astype(np.float64))
    )
    return bool(hidden.any())


def _zero_masked_rows(tape: Tape, y: ir.Value, bias: ir.Value, dtype: np.dtype[Any]) -> ir.Value:
    """Zeros where a query sees no key: Softmax over -inf alone makes NaN of them."""
    best = tape.op("ReduceMax", bias, tape.ints(-1), keepdims=1)
    blind = tape.op("Equal", best, tape.constant(np.array(-np.inf, dtype)))
    return tape.op("Where", blind, tape.constant(np.array(0.0, dtype)), y)
