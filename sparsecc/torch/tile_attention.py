"""Attention over kept tiles of scores as a module."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsecc.backends.cuda import attention as kernels
from sparsecc.backends.cuda.kernel import Arch
from sparsecc.backends.cuda.launch import arch_of
from sparsecc.backends.cuda.tiles import Rule
from sparsecc.errors import BackendError, PlanError
from sparsecc.torch.tile_kernels import Listed
from sparsecc.torch.tile_operator import tile_attention

USUAL_ARCH: Arch = "sm_90"
"""Whose tiles are packed where there is no GPU."""
_ROWS = ("starts", "full", "at", "bits")
_COLUMNS = tuple(f"{name}_by_keys" for name in _ROWS)
"""Buffers with the tiles, and with the same listed by their keys."""


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
            by default what ``tiles_of`` finds best.
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
        arch = arch or here()
        rule, ordered = Rule(left, right, sinks), orders is not None
        choices = (128, 64) if rows is None and not ordered else (rows or 128,)
        self.tiles = kernels.tiles_of(
            *(kernels.LIKE, features, (queries, keys), arch),
            rows=choices,
            ordered=ordered,
            kept=kept,
            block=block,
            rule=rule,
        )
        self.sizes = kernels.sizes_of(self.tiles)
        tiles = self.tiles
        arrays = dict(zip(_ROWS, (tiles.starts, tiles.full, tiles.at, tiles.bits), strict=True))
        arrays |= zip(_COLUMNS, tiles.by_keys(), strict=True)
        arrays["order"] = tiles.order(tiles.heads)
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
        q, k, v = alike(q, k, v, self.tiles.queries, self.tiles.keys, self.tiles.heads)
        listed = self.listed(q.shape[1])
        made: tuple[Tensor, Tensor] = tile_attention(
            *(q, k, v, *vars(listed).values()), q.shape[-1] ** -0.5 if scale is None else scale
        )
        return made

    def listed(self, heads: int) -> Listed:
        """The tiles of so many heads of queries, as the operator takes them."""
        tiles, order = self.tiles, self.order
        if heads != tiles.heads:  # heads that share patterns
            turns = torch.arange(heads // tiles.heads, device=order.device)
            step = tiles.heads * tiles.down
            order = (order[:, None] + turns.to(order.dtype) * step).flatten()
        rows, columns = ([getattr(self, name) for name in names] for names in (_ROWS, _COLUMNS))
        tile, sizes = [tiles.rows, tiles.columns], list(self.sizes.values())
        return Listed(order, rows, columns, self.places, tile, sizes)


def here() -> Arch:
    """Architecture of the GPU, or :data:`USUAL_ARCH`."""
    return arch_of("cuda") if torch.cuda.is_available() else USUAL_ARCH


def alike(
    q: Tensor, k: Tensor, v: Tensor, queries: int, keys: int, patterns: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of an attention in one type, that of autocast where it is on.

    Args:
        q: ``[B, H, L, D]``.
        k: ``[B, H / g, S, D]``.
        v: As k.
        queries: How many there should be.
        keys: How many there should be.
        patterns: Which divide H.

    Raises:
        BackendError: They have other shapes or types.
    """
    shapes = f"Q {list(q.shape)}, K {list(k.shape)}, V {list(v.shape)}"
    fix = f"give [B, heads, tokens, features], {queries} queries and {keys} keys"
    if not q.dim() == k.dim() == v.dim() == len("BHLD") or k.shape != v.shape:
        raise BackendError(f"no attention: {shapes}", fix=fix)
    if (q.shape[2], k.shape[2]) != (queries, keys) or q.shape[3] != k.shape[3]:
        raise BackendError(f"the tiles are of another attention than {shapes}", fix=fix)
    if q.shape[1] % max(1, k.shape[1]) or q.shape[1] % patterns or q.shape[0] != k.shape[0]:
        raise BackendError(
            f"heads that do not fit: {shapes}, {patterns} patterns",
            fix="heads of queries are a multiple of those of keys, and of patterns",
        )
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (each.to(torch.get_autocast_dtype(q.device.type)) for each in (q, k, v))
    elif not q.dtype == k.dtype == v.dtype:
        raise BackendError(
            f"queries are {q.dtype}, keys {k.dtype}, values {v.dtype}", fix="give one type"
        )
    return q, k, v


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
