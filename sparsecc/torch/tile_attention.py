"""Attention over kept tiles of scores as a torch operator, ``sparsecc::tile_attention``.

On a GPU its forward is the Triton kernel of ``backends/cuda``; elsewhere, and backward everywhere,
torch computes the same tiles, one row of them at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsecc.backends.cuda import attention as kernels
from sparsecc.backends.cuda.kernel import Arch
from sparsecc.backends.cuda.launch import arch_of, launch
from sparsecc.backends.cuda.tiles import Rule, pack
from sparsecc.errors import BackendError, PlanError

USUAL_ARCH: Arch = "sm_90"
"""Whose tiles are packed where there is no GPU."""
LESS = 0.8
"""Tiles of 64 queries are taken where they do less than this share of the arithmetic of those of
128, which read half as much. Not measured yet."""
_LIKE = "float16"
"""Tiles of both element types are as large."""


class TileAttention(nn.Module):  # type: ignore[misc]
    """``softmax(scale · Q Kᵀ) V`` over the blocks of scores that each head keeps.

    Args:
        queries: Tokens.
        keys: Tokens.
        features: Of a head: 64 or 128.
        kept: Blocks ``[patterns, down, across]``; head h has pattern ``h % patterns``. By default
            all.
        block: Queries and keys of a block.
        left: Query i sees key j when ``j <= i + right and (j >= i - left or j < sinks)``.
        right: 0 is causal.
        sinks: First keys that are seen from any distance ahead.
        orders: ``[patterns, tokens]``: blocks are of tokens in this order, place i is token
            ``orders[i]``; None: as they stand.
        rows: Queries of a tile, 64 or 128. Fewer compute less that is not kept, more read less;
            by default what :data:`LESS` says.
        arch: Of the GPU, as ``sm_90``; by default of the one that is here.

    Raises:
        BackendError: There is no kernel for heads like that.
        PlanError: The blocks or orders are not of these tokens.
        TargetError: There are no kernels for the GPU.
    """

    def __init__(
        self,
        queries: int,
        keys: int,
        features: int,
        *,
        kept: NDArray[np.bool_] | None = None,
        block: tuple[int, int] = (64, 64),
        left: int = Rule.left,
        right: int = Rule.right,
        sinks: int = 0,
        orders: NDArray[np.integer] | None = None,
        rows: int | None = None,
        arch: Arch | None = None,
    ) -> None:
        super().__init__()
        if arch is None:
            arch = arch_of("cuda") if torch.cuda.is_available() else USUAL_ARCH
        rule, ordered = Rule(left, right, sinks), orders is not None
        choices = (128, 64) if rows is None and not ordered else (rows or 128,)
        sizes = [kernels.tile_of(_LIKE, features, each, ordered, arch) for each in choices]
        packed = [pack(queries, keys, each, kept=kept, block=block, rule=rule) for each in sizes]
        self.tiles = packed[-1] if packed[-1].share < LESS * packed[0].share else packed[0]
        self.sizes = kernels.sizes_of(self.tiles)
        arrays = {name: getattr(self.tiles, name) for name in ("starts", "full", "at", "bits")}
        arrays["order"] = self.tiles.order(self.tiles.heads)
        if orders is not None:
            arrays["places"] = _places(orders, self.tiles.heads, queries, keys)
        else:
            self.places = None
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """The attention ``[B, H, L, D]``.

        Args:
            q: ``[B, H, L, D]``.
            k: ``[B, H / g, S, D]``.
            v: As k.
            scale: Of scores; by default 1 / √D.

        Raises:
            BackendError: Tensors of another shape than that of the tiles.
        """
        return self.with_sums(q, k, v, scale)[0]

    def with_sums(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same, and the log-sum-exp of each query's scores ``[B, H, L]``."""
        self._check(q, k, v)
        if torch.is_autocast_enabled(q.device.type):
            q, k, v = (each.to(torch.get_autocast_dtype(q.device.type)) for each in (q, k, v))
        elif not q.dtype == k.dtype == v.dtype:
            raise BackendError(
                f"queries are {q.dtype}, keys {k.dtype}, values {v.dtype}", fix="give one type"
            )
        order = self.order
        if q.shape[1] != self.tiles.heads:  # heads that share patterns
            rows = torch.arange(q.shape[1] // self.tiles.heads, device=order.device)
            step = self.tiles.heads * self.tiles.down
            order = (order[:, None] + rows.to(order.dtype) * step).flatten()
        made: tuple[Tensor, Tensor] = tile_attention(
            *(q, k, v, order, self.starts, self.full, self.at, self.bits, self.places),
            [self.tiles.rows, self.tiles.columns],
            list(self.sizes.values()),
            q.shape[-1] ** -0.5 if scale is None else scale,
        )
        return made

    def _check(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        tiles = self.tiles
        shapes = f"Q {list(q.shape)}, K {list(k.shape)}, V {list(v.shape)}"
        fix = f"give [B, heads, tokens, features], {tiles.queries} queries and {tiles.keys} keys"
        if not q.dim() == k.dim() == v.dim() == len("BHLD") or k.shape != v.shape:
            raise BackendError(f"no attention: {shapes}", fix=fix)
        if (q.shape[2], k.shape[2]) != (tiles.queries, tiles.keys) or q.shape[3] != k.shape[3]:
            raise BackendError(f"the tiles are of another attention than {shapes}", fix=fix)
        if q.shape[1] % max(1, k.shape[1]) or q.shape[1] % tiles.heads or q.shape[0] != k.shape[0]:
            raise BackendError(
                f"heads that do not fit: {shapes}, {tiles.heads} patterns",
                fix="heads of queries are a multiple of those of keys, and of patterns",
            )


def _places(
    orders: NDArray[np.integer], patterns: int, queries: int, keys: int
) -> NDArray[np.int32]:
    wanted = np.arange(queries)
    if (
        queries != keys
        or orders.shape != (patterns, queries)
        or not (np.sort(orders, 1) == wanted).all()
    ):
        raise PlanError(
            f"orders {list(orders.shape)} of {queries} queries and {keys} keys",
            fix=f"give [{patterns}, {queries}]: every token once, and as many keys as queries",
        )
    return orders.astype(np.int32)


@torch.library.custom_op("sparsecc::tile_attention", mutates_args=())  # type: ignore[untyped-decorator]
def tile_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    order: Tensor,
    starts: Tensor,
    full: Tensor,
    at: Tensor,
    bits: Tensor,
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
        order: As :class:`sparsecc.backends.cuda.tiles.Tiles` has it, like the next five.
        starts: int32.
        full: int32.
        at: int32.
        bits: int32.
        places: int32 ``[patterns, tokens]``, or None.
        tile: Queries and keys of a tile.
        sizes: Tiles down, patterns, grain, left, right and sinks.
        scale: Of scores.
    """
    out, lse = _empty(q)
    for row in _rows(q, k, starts, full, at, bits, places, tile, sizes):
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
    starts: Tensor,
    full: Tensor,
    at: Tensor,
    bits: Tensor,
    places: Tensor | None,
    tile: Sequence[int],
    sizes: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    dtype = str(q.dtype).removeprefix("torch.")
    kernel = kernels.kernel_of(dtype, q.shape[3], tile[0], places is not None)
    columns = kernel.constants_on(arch_of(q.device))["COLUMNS"]
    if columns != tile[1]:
        raise BackendError(
            f"tiles of {tile[1]} keys, kernels of this GPU take {columns}",
            fix=f"make the TileAttention with arch={arch_of(q.device)!r}",
        )
    if scale <= 0:  # the kernel's maximum is of scores that are scaled up
        q, scale = (-q, -scale) if scale else (torch.zeros_like(q), 1.0)
    out, lse = _empty(q)
    q, k, v, written = (_aligned(each) for each in (q, k, v, out))
    names = ("Order", "Rows", "Full", "Columns", "Bits")
    indices = dict(zip(names, (order, starts, full, at, bits), strict=True))
    given = kernels.arguments(
        *(q, k, v, written, lse),
        indices=indices if places is None else indices | {"Places": places},
        sizes=dict(zip(kernels.SIZES, sizes, strict=True)),
        scale=scale,
    )
    launch(kernel, kernels.grid_of(order, q), given)
    return (out if written is out else out.copy_(written)), lse


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it that kernels can read."""
    aligned = kernels.is_aligned(tensor.stride(), tensor.data_ptr())
    return tensor if aligned else tensor.clone(memory_format=torch.contiguous_format)


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
    starts: Tensor,
    full: Tensor,
    at: Tensor,
    bits: Tensor,
    places: Tensor | None,
    tile: Sequence[int],
    sizes: Sequence[int],
) -> Iterator[_Row]:
    """Every row of every head."""
    (rows, columns), (down, patterns, grain, left, right, sinks) = tile, sizes
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
    starts: Tensor,
    full: Tensor,
    at: Tensor,
    bits: Tensor,
    places: Tensor | None,
    tile: Sequence[int],
    sizes: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values; weights are computed again from the log-sum-exp."""
    grads = [torch.zeros_like(_wide(each)) for each in (q, k, v)]
    mean = (_wide(grad) * _wide(out)).sum(-1)
    for row in _rows(q, k, starts, full, at, bits, places, tile, sizes):
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


@tile_attention_backward.register_fake  # type: ignore[untyped-decorator]
def _fake_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(ctx: object, inputs: tuple[object, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, _, starts, full, at, bits, places, *rest = inputs
    ctx.save_for_backward(q, k, v, *output, starts, full, at, bits, places)  # type: ignore[attr-defined]
    ctx.rest = rest  # type: ignore[attr-defined]
    ctx.mark_non_differentiable(output[1])  # type: ignore[attr-defined]


def _backward(ctx: object, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    saved, rest = ctx.saved_tensors, ctx.rest  # type: ignore[attr-defined]
    made = tile_attention_backward(grad, *saved, *rest)
    return (*made, *(None,) * (len(ctx.needs_input_grad) - len(made)))  # type: ignore[attr-defined]


tile_attention.register_autograd(_backward, setup_context=_save)
