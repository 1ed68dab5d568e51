"""The search for blocks of scores while a model samples, in torch: nothing waits for the device.

Its meaning is that of :mod:`sparsecc.ops.attention_search`, whose numpy is what tests hold it
against. Masses of blocks are an operator, ``sparsecc::block_masses``: on a GPU a kernel of
``backends/cuda``, elsewhere torch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsecc.backends.cuda import attention as kernels
from sparsecc.backends.cuda.kernel import Arch
from sparsecc.backends.cuda.launch import arch_of, launch
from sparsecc.backends.cuda.recipe import dtype_of
from sparsecc.ops.attention_search import PARTS, RECALL
from sparsecc.torch.tile_kernels import Start, aligned


@torch.library.custom_op("sparsecc::block_masses", mutates_args=())  # type: ignore[untyped-decorator]
def block_masses(q: Tensor, k: Tensor, block: int, scale: float) -> Tensor:
    """What softmax(scale Q Kᵀ) gives each block, summed over batch and rows.

    Args:
        q: ``[B, H, L, D]``.
        k: ``[B, H / g, S, D]``: g heads of queries share one of keys.
        block: Queries and keys of a block; the last may be cut.
        scale: Of scores.

    Returns:
        ``[H, blocks of queries, blocks of keys]``, float32 or what queries are if more; zero where
        it is no number.
    """
    masses, across = _empty(q, k, block), math.ceil(k.shape[2] / block)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1).to(masses.dtype)
    for row, queries in enumerate(q.to(masses.dtype).split(block, 2)):
        weights = torch.softmax(scale * queries @ k.mT, -1).sum((0, 2))
        beyond = across * block - weights.shape[1]
        cut = torch.nn.functional.pad(weights, (0, beyond)).unflatten(1, (across, block))
        masses[:, row] = cut.sum(2)
    return torch.where(masses > 0, masses, 0)


def _empty(q: Tensor, k: Tensor, block: int) -> Tensor:
    blocks = (math.ceil(each.shape[2] / block) for each in (q, k))
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty((q.shape[1], *blocks), dtype=kind)


@block_masses.register_fake  # type: ignore[untyped-decorator]
def _fake(q: Tensor, k: Tensor, block: int, _: float) -> Tensor:
    return _empty(q, k, block)


@block_masses.register_kernel("cuda")  # type: ignore[untyped-decorator]
def _cuda(q: Tensor, k: Tensor, block: int, scale: float) -> Tensor:
    return masses_by_kernel(launch, arch_of(q.device), q, k, block, scale)


def masses_by_kernel(
    start: Start, arch: Arch, q: Tensor, k: Tensor, block: int, scale: float
) -> Tensor:
    """The same by the kernel.

    Raises:
        BackendError: There is none for these heads or blocks.
        TargetError: It is not built for the architecture.
    """
    kernel = kernels.search_of(dtype_of(q), q.shape[3], block)
    if scale <= 0:  # its maximum is of scores that are scaled up
        q, scale = (-q, -scale) if scale else (torch.zeros_like(q), 1.0)
    blocks = (math.ceil(each.shape[2] / block) for each in (q, k))
    masses = q.new_empty((*q.shape[:2], *blocks), dtype=torch.float32)
    given = kernels.search_arguments(aligned(q), aligned(k), masses, scale)
    start(kernel, (q.shape[1] * given["tiles"], q.shape[0]), given)
    every = masses.sum(0)
    return torch.where(every > 0, every, 0)


def choose_blocks(
    masses: Tensor, queries: int, words: Tensor, counts: tuple[int, int, int]
) -> Tensor:
    """Which blocks are kept, bool ``[H, blocks, blocks]``.

    Args:
        masses: As :func:`block_masses` gives them, of tokens that see themselves.
        queries: Of all batches.
        words: Bool ``[blocks]``: which hold a word, and are kept by all.
        counts: :func:`sparsecc.ops.attention_search.kept_counts`.
    """
    heads, (few, most, many) = len(masses), counts
    always = words[:, None] | words
    rank = _rank(torch.where(words, -1, masses))
    held = torch.where((rank < most) | always, masses, 0).sum((1, 2), dtype=torch.float64)
    recall = torch.floor(held * PARTS / max(1, queries) + 0.5)
    count = (recall > RECALL).sum().clamp_max(heads // 2)
    place = _rank(recall)
    k = torch.where(place < count, few, torch.where(place >= heads - count, many, most))
    return (rank < k[:, None, None]) | always


def _rank(numbers: Tensor) -> Tensor:
    """Places in descending order along the last axis; equal numbers as they stand."""
    return (-numbers).argsort(dim=-1, stable=True).argsort(-1)


def most_blocks(heads: int, words: int, blocks: int, counts: tuple[int, int, int]) -> int:
    """The largest number of blocks that :func:`choose_blocks` keeps.

    Args:
        heads: Of the attention.
        words: Blocks that hold a word.
        blocks: Of all tokens.
        counts: As there.
    """
    few, most, many = (min(each, blocks - words) for each in counts)
    free = max(heads * most, heads // 2 * (few + many) + heads % 2 * most)
    return (blocks - words) * (free + heads * words) + heads * words * blocks


def listed_blocks(
    kept: Tensor, block: int, columns: int, keys: int, room: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Kept blocks as tiles of a block's queries: order, starts, full and at, int32.

    Args:
        kept: Bool ``[H, blocks, blocks]``.
        block: Queries and keys of a block.
        columns: Keys of a tile, of which a block has one or more whole ones.
        keys: Of all blocks; the last tile may be cut.
        room: Length of ``at`` less one; what is behind the last tile is 0.
    """
    across = math.ceil(keys / columns)
    tiles = kept.repeat_interleave(block // columns, -1)[..., :across].flatten(0, 1)
    counts = tiles.sum(-1)
    ends = counts.cumsum(0)
    place = tiles.cumsum(-1) - 1 + (ends - counts)[:, None]
    numbers = torch.arange(across, device=kept.device).expand_as(place)
    at = torch.zeros(room + 1, dtype=torch.int64, device=kept.device)
    at.scatter_(0, torch.where(tiles, place, room).flatten(), numbers.flatten())
    at[room:] = 0  # where those that are not kept went
    cut = tiles[:, -1] if keys % columns else torch.zeros_like(tiles[:, -1])
    starts = torch.nn.functional.pad(ends, (1, 0))
    order = (-counts).argsort(stable=True)
    return order.int(), starts.int(), (ends - cut.int()).int(), at.int()
