"""What patterns of kept blocks lose of a head's output, all of them in one pass over its scores.

Softmax over fewer keys is the same sum of exponentials with some terms left out, above and below
the line. So what each block of keys adds to both is computed once, and every pattern is a choice
of these parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_LEAST = np.finfo(np.float32).tiny
"""In the place of a sum of no terms."""


@dataclass(frozen=True)
class Losses:
    """What patterns lose of a head's output.

    Attributes:
        errors: Σ‖Oᵢ − O₀‖² of each pattern [patterns].
        whole: O₀, over all keys [tokens, features].
        mass: What every key gets of the softmax, summed over queries [tokens].
    """

    errors: NDArray[np.float64]
    whole: Floats
    mass: NDArray[np.float64]


def block_mass(q: Floats, k: Floats, scale: float, block: int) -> NDArray[np.float64]:
    """What blocks of a head's softmax hold [query blocks, key blocks].

    Each row sums to the queries of its block.

    Args:
        q: Queries of one head [tokens, features].
        k: Keys, as many.
        scale: On the scores.
        block: Tokens of a block, of queries and of keys; the last may be cut.
    """
    starts = np.arange(0, len(k), block)
    mass = np.zeros((-(-len(q) // block), len(starts)))
    for at, start in enumerate(range(0, len(q), block)):
        weights = _exponentials(q[start : start + block], k.T, scale)
        keys = (1 / weights.sum(axis=1)) @ weights
        mass[at] = np.add.reduceat(keys, starts, dtype=np.float64)
    return mass


def losses(
    q: Floats, k: Floats, v: Floats, scale: float, kept: NDArray[np.bool_], block: int
) -> Losses:
    """What patterns change of a head's output, and what a choice of others needs.

    Args:
        q: Queries of one head [tokens, features].
        k: Keys.
        v: Values.
        scale: On the scores.
        kept: [patterns, query blocks, key blocks]; there may be no pattern.
        block: Tokens of a block, of queries and of keys; the last may be cut.
    """
    parts, errors = _Parts(k, v, block), np.zeros(len(kept))
    whole, mass = np.empty_like(v), np.zeros(len(k))
    for at, start in enumerate(range(0, len(q), block)):
        rows = slice(start, start + block)
        weights, sums = parts.of(q[rows], scale)
        total = sums.sum(axis=0)
        whole[rows] = _divided(total)
        mass += (1 / total[:, -1]) @ weights
        flat = sums.reshape(len(sums), -1)
        chosen = (kept[:, at].astype(np.float32) @ flat).reshape(len(kept), *total.shape)
        errors += np.square(_divided(chosen) - whole[rows], dtype=np.float64).sum(axis=(1, 2))
    return Losses(errors, whole, mass)


class _Parts:
    """Keys and values of a head, cut into blocks."""

    def __init__(self, k: Floats, v: Floats, block: int) -> None:
        blocks = -(-len(k) // block)
        self._tokens, self._block, self._keys = len(k), block, k.T
        ones = np.zeros((blocks * block, v.shape[1] + 1), np.float32)
        ones[: len(v), :-1] = v
        ones[: len(v), -1] = 1
        self._values = ones.reshape(blocks, block, -1)

    def of(self, q: Floats, scale: float) -> tuple[Floats, Floats]:
        """Exponentials of scores, and what each block of keys adds.

        Returns:
            [queries, keys], and [blocks, queries, features + 1] with the divisor last.
        """
        blocks = len(self._values)
        weights = np.zeros((len(q), blocks * self._block), np.float32)
        weights[:, : self._tokens] = _exponentials(q, self._keys, scale)
        by_block = weights.reshape(len(q), blocks, self._block).transpose(1, 0, 2)
        return weights[:, : self._tokens], by_block @ self._values


def attend_kept(
    q: Floats, k: Floats, v: Floats, scale: float, kept: NDArray[np.bool_], block: int
) -> Floats:
    """The output of a head over kept blocks alone; zeros for queries that see no key.

    Args:
        q: Queries of one head [tokens, features].
        k: Keys.
        v: Values.
        scale: On the scores.
        kept: [query blocks, key blocks].
        block: Tokens of a block, of queries and of keys.
    """
    made = np.zeros((len(q), v.shape[1]), np.float32)
    for rows, keys in _rows(kept, len(q), len(k), block):
        weights = _exponentials(q[rows], k[keys].T, scale)
        made[rows] = (weights @ v[keys]) / weights.sum(axis=1, keepdims=True)
    return made


def _rows(
    kept: NDArray[np.bool_], queries: int, keys: int, block: int
) -> Iterator[tuple[slice, NDArray[np.intp] | slice]]:
    """Queries of each block, and the keys that they see; those that see none are left out."""
    for at, seen in enumerate(kept):
        rows = slice(at * block, min(queries, (at + 1) * block))
        if seen.all():
            yield rows, slice(None)
        elif seen.any():
            yield rows, np.flatnonzero(seen.repeat(block)[:keys])


def _exponentials(q: Floats, keys: Floats, scale: float) -> Floats:
    """Of scores, the largest of each query being 1."""
    scores = (q * np.float32(scale)) @ keys
    scores -= scores.max(axis=1, keepdims=True)
    found: Floats = np.exp(scores, out=scores)
    return found


def _divided(sums: Floats) -> Floats:
    found: Floats = np.divide(sums[..., :-1], np.maximum(sums[..., -1:], _LEAST), dtype=np.float32)
    return found
