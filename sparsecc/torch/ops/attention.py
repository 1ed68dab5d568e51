"""Attention and rotary positions (opset 23 and later)."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.torch.ops.create import known_dtype
from sparsecc.torch.ops.table import Function, NodeView, Op

_SOFT_CAPPED, _WITH_BIAS, _PROBABILITIES = 1, 2, 3
"""What the last output shows of the scores; 0 is the bare products."""


def _by_head(x: Tensor, heads: int | None) -> Tensor:
    """``[batch, tokens, heads · size]`` → ``[batch, heads, tokens, size]``."""
    return x if x.dim() == 4 else x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attention(node: NodeView) -> Function:
    heads = {name: node.get(f"{name}_num_heads") for name in ("q", "kv")}
    scale, cap = node.get("scale"), node.get("softcap", 0.0)
    causal, mode = bool(node.get("is_causal", 0)), node.get("qk_matmul_output_mode", 0)
    windows = (node.get("left_window_size", -1), node.get("right_window_size", -1))
    code = node.get("softmax_precision")
    precision = None if code is None else known_dtype(node, code)
    outputs = len(node.node.outputs)

    def attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        past_k: Tensor | None = None,
        past_v: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        flat = q.dim() == 3
        q, k, v = (_by_head(x, heads[n]) for x, n in ((q, "q"), (k, "kv"), (v, "kv")))
        k = k if past_k is None else torch.cat([past_k, k], 2)
        v = v if past_v is None else torch.cat([past_v, v], 2)
        present = (k, v)
        repeats = q.shape[1] // k.shape[1]
        k, v = (x if repeats == 1 else x.repeat_interleave(repeats, 1) for x in (k, v))
        root = math.sqrt(1 / math.sqrt(q.shape[-1]) if scale is None else scale)
        scores = (q * root) @ (k * root).transpose(-1, -2)
        shown = scores
        if cap > 0:
            scores = cap * torch.tanh(scores / cap)
        shown = scores if mode == _SOFT_CAPPED else shown
        past = 0 if past_k is None else past_k.shape[2]
        bias = _bias(scores, mask, causal, windows, past, lengths)
        if bias is not None:
            scores = scores + bias
        shown = scores if mode == _WITH_BIAS else shown
        weights = torch.softmax(scores if precision is None else scores.to(precision), -1)
        if bias is not None:
            nobody = (bias == -torch.inf).all(-1, keepdim=True)
            weights = weights.masked_fill(nobody, 0)
        shown = weights.to(q.dtype) if mode == _PROBABILITIES else shown
        y = weights.to(q.dtype) @ v
        y = y.transpose(1, 2).flatten(2) if flat else y
        return (y, *present, shown)[:outputs] if outputs > 1 else y

    return attention


def _bias(
    scores: Tensor,
    mask: Tensor | None,
    causal: bool,
    windows: tuple[int, int],
    past: int,
    lengths: Tensor | None,
) -> Tensor | None:
    """What is added to the scores: 0 where a query may look at a key, -inf where not."""
    queries, keys = scores.shape[-2:]
    bias: Tensor | None = None
    if mask is not None:
        missing = keys - mask.shape[-1]
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -torch.inf)
        bias = functional.pad(mask, (0, missing), value=-torch.inf)
    i = torch.arange(queries, device=scores.device).unsqueeze(1)
    j = torch.arange(keys, device=scores.device)
    ends = None if lengths is None else lengths.reshape(-1, 1, 1, 1)
    place = i + (past if ends is None else ends - queries)  # of every query among the keys
    left, right = windows
    rules = [] if ends is None else [j < ends]
    rules += [j <= place] if causal else []
    rules += [place - j <= left] if left >= 0 else []
    rules += [j - place <= right] if right >= 0 else []
    if not rules:
        return bias
    allowed = functools.reduce(torch.logical_and, rules)
    zeros = torch.zeros_like(allowed, dtype=scores.dtype)
    barred: Tensor = zeros.masked_fill(~allowed, -torch.inf)
    return barred if bias is None else bias + barred


def _rotary(node: NodeView) -> Function:
    heads, size = node.get("num_heads", 0), node.get("rotary_embedding_dim", 0)
    interleaved = node.get("interleaved", 0)

    def rotate(x: Tensor, cos: Tensor, sin: Tensor, places: Tensor | None = None) -> Tensor:
        flat = x.dim() == 3
        tokens = x.unflatten(-1, (heads, -1)) if flat else x.transpose(1, 2)
        turned = tokens[..., : size or tokens.shape[-1]]
        if places is not None:
            cos, sin = cos[places], sin[places]
        cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
        a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
        real, imaginary = cos * a - sin * b, sin * a + cos * b
        if interleaved:
            both = torch.stack([real, imaginary], -1).flatten(-2)
        else:
            both = torch.cat([real, imaginary], -1)
        result = torch.cat([both, tokens[..., turned.shape[-1] :]], -1)
        return result.flatten(2) if flat else result.transpose(1, 2)

    return rotate


OPS: dict[str, Op] = {
    "Attention": Op(_attention),
    "RotaryEmbedding": Op(_rotary),
}
