"""Attention over kept tiles of scores as a torch operator, ``sparsecc::tile_attention``.

On a GPU the kernels of ``backends/cuda`` compute it and its gradients; elsewhere torch computes the
same tiles, one row of them at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecc.backends.cuda.attention import LISTS
from sparsecc.backends.cuda.launch import arch_of, launch
from sparsecc.torch.tile_kernels import Listed, attend, gradients


@torch.library.custom_op("sparsecc::tile_attention", mutates_args=())  # type: ignore[untyped-decorator]
def tile_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    order: Tensor,
    rows: Sequence[Tensor],
    columns: Sequence[Tensor],
    places: Tensor | None,
    tile: Sequence[int],
    sizes: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The output and the log-sum-exp, computed by torch.

    Args:
        q: ``[B, H, L, D]``.
        k: ``[B, H / g, S, D]``.
        v: As k.
        order: int32, as :class:`sparsecc.backends.cuda.tiles.Tiles` has it, like the next two.
        rows: ``starts``, ``full``, ``at`` and ``bits``, int32. Numbers of ``at`` and ``bits``
            behind the last start are not read.
        columns: The same of tiles by their keys; empty where there are no gradients.
        places: int32 ``[patterns, tokens]``, or None.
        tile: Queries and keys of a tile.
        sizes: Tiles down, patterns, grain, left, right and sinks.
        scale: Of scores.
    """
    out, lse = _empty(q)
    for row in _rows(q, k, rows, places, tile, sizes):
        scores = row.scores(q, k, scale)
        sums = torch.logsumexp(scores, -1)
        weights = torch.exp(scores - sums.clamp_min(torch.finfo(sums.dtype).min)[..., None])
        out[:, row.head, row.i] = (weights @ row.of(v)).to(out.dtype)
        lse[:, row.head, row.i] = sums.to(lse.dtype)
    return out, lse


def _empty(q: Tensor) -> tuple[Tensor, Tensor]:
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=kind)


@tile_attention.register_fake  # type: ignore[untyped-decorator]
def _fake(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return _empty(q)


@tile_attention.register_kernel("cuda")  # type: ignore[untyped-decorator]
def _cuda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    order: Tensor,
    rows: Sequence[Tensor],
    columns: Sequence[Tensor],
    places: Tensor | None,
    tile: Sequence[int],
    sizes: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    listed = Listed(order, rows, columns, places, tile, sizes)
    return attend(launch, arch_of(q.device), (q, k, v), listed, scale, _empty(q))


@dataclass(frozen=True)
class _Row:
    """A row of tiles of one head: tokens of its queries and keys, and which of these are seen."""

    head: int
    shared: int
    i: Tensor
    j: Tensor
    hidden: Tensor

    def of(self, tensor: Tensor) -> Tensor:
        """Its keys or values, in float32 or more ``[B, keys, D]``."""
        return _wide(tensor[:, self.shared, self.j])

    def scores(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """``[B, queries, keys]``; -inf where a query does not see a key."""
        products = _wide(q[:, self.head, self.i]) @ self.of(k).mT
        return (scale * products).masked_fill(self.hidden, -torch.inf)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _rows(
    q: Tensor,
    k: Tensor,
    lists: Sequence[Tensor],
    places: Tensor | None,
    tile: Sequence[int],
    sizes: Sequence[int],
) -> Iterator[_Row]:
    """Every row of every head."""
    (rows, columns), (down, patterns, grain, left, right, sinks) = tile, sizes
    starts, full, at, bits = lists
    bounds, middles = starts.tolist(), full.tolist()
    within = torch.arange(columns, device=q.device)
    for head in range(q.shape[1]):
        pattern = head % patterns
        for number in range(down):
            row = pattern * down + number
            begin, middle, end = bounds[row], middles[row], bounds[row + 1]
            i = torch.arange(number * rows, min((number + 1) * rows, q.shape[2]), device=q.device)
            j = (at[begin:end, None] * columns + within).flatten().long()
            seen = j <= i[:, None] + right
            seen &= (j >= i[:, None] - left) | (j < sinks)
            square = (i % rows // grain)[:, None] * (columns // grain) + within // grain
            kept = (bits[begin:end] >> square[..., None]) & 1 == 1  # [rows, columns, tiles]
            seen &= kept.mT.flatten(1) & (j < k.shape[2])
            seen[:, : (middle - begin) * columns] = True
            j = j.clamp_max(k.shape[2] - 1)
            if places is not None:
                i, j = places[pattern, i].long(), places[pattern, j].long()
            yield _Row(head, head // (q.shape[1] // k.shape[1]), i, j, ~seen)


@torch.library.custom_op("sparsecc::tile_attention_backward", mutates_args=())  # type: ignore[untyped-decorator]
def tile_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    order: Tensor,
    rows: Sequence[Tensor],
    columns: Sequence[Tensor],
    places: Tensor | None,
    tile: Sequence[int],
    sizes: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values; weights are computed again from the log-sum-exp."""
    mean = (_wide(grad) * _wide(out)).sum(-1)
    grads = [mean.new_zeros(each.shape) for each in (q, k, v)]
    for row in _rows(q, k, rows, places, tile, sizes):
        sums = lse[:, row.head, row.i].to(mean.dtype)
        sums = sums.clamp_min(torch.finfo(sums.dtype).min)[..., None]
        weights = torch.exp(row.scores(q, k, scale) - sums)
        ours = _wide(grad[:, row.head, row.i])
        of_scores = ours @ row.of(v).mT - mean[:, row.head, row.i][..., None]
        of_scores = scale * weights * of_scores
        grads[0][:, row.head, row.i] = of_scores @ row.of(k)
        grads[1][:, row.shared].index_add_(1, row.j, of_scores.mT @ _wide(q[:, row.head, row.i]))
        grads[2][:, row.shared].index_add_(1, row.j, weights.mT @ ours)
    made = [each.to(like.dtype) for each, like in zip(grads, (q, k, v), strict=True)]
    return made[0], made[1], made[2]


@tile_attention_backward.register_kernel("cuda")  # type: ignore[untyped-decorator]
def _cuda_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    order: Tensor,
    rows: Sequence[Tensor],
    columns: Sequence[Tensor],
    places: Tensor | None,
    tile: Sequence[int],
    sizes: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    listed = Listed(order, rows, columns, places, tile, sizes)
    tokens = {"Q": q, "K": k, "V": v, "Out": out, "Grad": grad}
    return gradients(launch, arch_of(q.device), tokens, lse, listed, scale)


@tile_attention_backward.register_fake  # type: ignore[untyped-decorator]
def _fake_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: object, inputs: tuple[object, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, order, rows, columns, places, *rest = inputs
    ctx.save_for_backward(q, k, v, *output, order, places, *rows, *columns)  # type: ignore[attr-defined, misc]
    ctx.rest = rest  # type: ignore[attr-defined]
    ctx.mark_non_differentiable(output[1])  # type: ignore[attr-defined]


def _backward(ctx: object, grad: Tensor, _: Tensor) -> tuple[object, ...]:
    *tokens, order, places = ctx.saved_tensors[:7]  # type: ignore[attr-defined]
    lists = ctx.saved_tensors[7:]  # type: ignore[attr-defined]
    rows, columns = list(lists[: len(LISTS)]), list(lists[len(LISTS) :])
    made = tile_attention_backward(grad, *tokens, order, rows, columns, places, *ctx.rest)  # type: ignore[attr-defined]
    return (*made, None, [None] * len(rows), [None] * len(columns), *(None,) * 4)


tile_attention.register_autograd(_backward, setup_context=_save)
