"""How blocks of scores are found from queries and keys: AdaSpa (Xia et al., arXiv 2502.21079).

The mass of a block is what a softmax over all keys gives it, summed over its queries. Every row of
blocks keeps those with the most; heads whose blocks hold nearly all of it keep fewer, others more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsecc.ops.spec import Array

PARTS = 1000
"""The share of its mass that a head holds is rounded to such parts: less than that is rounding."""
RECALL = 800
"""A head whose kept blocks hold more than so many parts of its mass can do with fewer."""


def block_masses(q: Array, k: Array, grid: Sequence[int], scale: float) -> Array:
    """What softmax(scale Q Kᵀ) gives each block, summed over batch and rows.

    Args:
        q: ``[B, H, L, E]``.
        k: ``[B, H / g, S, E]``: g heads of queries share one of keys.
        grid: Heads, blocks of queries, blocks of keys, rows and columns of a block.
        scale: What products of queries and keys are multiplied by.

    Returns:
        ``[H, blocks of queries, blocks of keys]``; zero where it is no number.
    """
    heads, down, across, rows, columns = grid
    scores = scale * (q @ np.repeat(k, heads // k.shape[1], axis=1).swapaxes(-1, -2))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares = (weights / weights.sum(axis=-1, keepdims=True)).sum(axis=0)
    beyond = (down * rows - shares.shape[1], across * columns - shares.shape[2])
    padded = np.pad(shares, [(0, 0), *((0, more) for more in beyond)])
    masses = padded.reshape(heads, down, rows, across, columns).sum(axis=(2, 4))
    return np.where(masses > 0, masses, 0)


def blocks_of_words(tokens: int, block: int, words: Sequence[int]) -> NDArray[np.bool_]:
    """Which blocks of so many tokens hold one of the words before or behind the others."""
    starts = np.arange(0, tokens, block)
    before, behind = words
    held: NDArray[np.bool_] = (starts < before) | (
        np.minimum(starts + block, tokens) > tokens - behind
    )
    return held


def kept_counts(sparsity: float, free: int) -> tuple[int, int, int]:
    """How many blocks without words a row keeps.

    Args:
        sparsity: The share that is left out, over all heads.
        free: The blocks without words of a row.

    Returns:
        Of a head that can do with fewer, of most heads, and of one that needs more.
    """
    s = float(np.float32(sparsity))
    apart = min((1 - s) / 2, s)
    few, most, many = (max(1, int((1 - each) * free + 0.5)) for each in (s + apart, s, s - apart))
    return few, most, many


def choose_blocks(
    masses: Array, tokens: Sequence[int], grid: Sequence[int], sparsity: float, words: Sequence[int]
) -> NDArray[np.bool_]:
    """Which blocks are kept, ``[H, blocks of queries, blocks of keys]``.

    Args:
        masses: As :func:`block_masses` gives them.
        tokens: Rows of all batches, queries and keys.
        grid: Of the masses.
        sparsity: The share of blocks without words that is left out, over all heads.
        words: Tokens that stand for words, before and behind all others.
    """
    rows_of_all, queries, keys = tokens
    heads = len(masses)
    down, across = (
        blocks_of_words(size, block, words)
        for size, block in zip((queries, keys), grid[3:], strict=True)
    )
    always = down[:, None] | across
    rank = np.argsort(np.argsort(-np.where(across, -1, masses), kind="stable"), kind="stable")
    few, most, many = kept_counts(sparsity, int(np.count_nonzero(~across)))
    held = np.where((rank < most) | always, masses, 0).sum(axis=(1, 2), dtype=np.float64)
    recall = np.floor(held * PARTS / max(1, rows_of_all) + 0.5)
    count = min(int(np.count_nonzero(recall > RECALL)), heads // 2)
    place = np.argsort(np.argsort(-recall, kind="stable"))
    k = np.where(place < count, few, np.where(place >= heads - count, many, most))
    kept: NDArray[np.bool_] = (rank < k[:, None, None]) | always
    return kept
