"""The one packed format of sparse weights: r×c blocks at ascending flat positions.

N×1 blocks (N output rows, one input) are ``(N, 1)``; 1×G groups are ``(1, G)``; unstructured and
N:M weights are ``(1, 1)``. A dense weight is the same format with every block present.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Block = tuple[int, int]
"""Rows and columns of one block."""


@dataclass(frozen=True)
class BlockWeight:
    """A weight ``W[R, K]`` kept as its non-zero r×c blocks.

    Attributes:
        values: float ``[nb, r*c]``, each block row-major.
        index: int32 ``[nb]``, strictly ascending ``block_row * Kb + block_column``.
        grid: ``(Rb, Kb, r, c)`` with ``Rb = ceil(R/r)`` and ``Kb = ceil(K/c)``.
        shape: Logical shape; the first dimension is R, the product of the others is K.
    """

    values: NDArray[np.floating]
    index: NDArray[np.int32]
    grid: tuple[int, int, int, int]
    shape: tuple[int, ...]

    @property
    def block(self) -> Block:
        """Rows and columns of one block."""
        return self.grid[2], self.grid[3]

    @property
    def density(self) -> float:
        """Stored blocks over all blocks."""
        return len(self.index) / max(1, self.grid[0] * self.grid[1])

    @property
    def nbytes(self) -> int:
        """Bytes of values and index together."""
        return int(self.values.nbytes + self.index.nbytes)


def _grid(shape: tuple[int, ...], block: Block) -> tuple[int, int, int, int]:
    (rows, cols), (r, c) = shape, block
    if r < 1 or c < 1:
        raise ValueError(f"block {r}x{c} has an empty side")
    return math.ceil(rows / r), math.ceil(cols / c), r, c


def _as_blocks(matrix: NDArray[np.floating], block: Block) -> NDArray[np.floating]:
    """View ``[R, K]`` as ``[Rb * Kb, r * c]``, the edges padded by zeros."""
    rb, kb, r, c = _grid(matrix.shape, block)
    padded = np.zeros((rb * r, kb * c), matrix.dtype)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded.reshape(rb, r, kb, c).transpose(0, 2, 1, 3).reshape(rb * kb, r * c)


def count_blocks(nonzero: NDArray[np.bool_], block: Block) -> int:
    """Number of r×c blocks of a matrix ``[R, K]`` in which any element is marked."""
    rb, kb, r, c = _grid(nonzero.shape, block)
    if nonzero.shape != (rb * r, kb * c):
        padded = np.zeros((rb * r, kb * c), np.bool_)
        padded[: nonzero.shape[0], : nonzero.shape[1]] = nonzero
        nonzero = padded
    by_row = nonzero.reshape(rb, r, kb * c).any(axis=1) if r > 1 else nonzero
    by_block = by_row.reshape(rb, kb, c).any(axis=2) if c > 1 else by_row
    return int(np.count_nonzero(by_block))


def pack_blocks(
    weight: NDArray[np.floating], block: Block, *, keep_zeros: bool = False
) -> BlockWeight:
    """Pack a weight whose first axis is R and whose other axes make up K.

    Args:
        weight: ``[R, ...]``; zeros stay zeros, every block with a non-zero is kept whole.
        block: Rows and columns of one block.
        keep_zeros: Store every block, the all-zero ones too (the dense format).

    Returns:
        The packed weight, in the dtype of ``weight``.
    """
    matrix = weight.reshape(weight.shape[0], -1)
    if matrix.size >= 2**31:
        raise ValueError(f"weight of shape {weight.shape} has too many elements for int32 indices")
    blocks = _as_blocks(matrix, block)
    kept = np.ones(len(blocks), bool) if keep_zeros else np.any(blocks != 0, axis=1)
    index = np.flatnonzero(kept).astype(np.int32)
    return BlockWeight(
        values=np.ascontiguousarray(blocks[index]),
        index=index,
        grid=_grid(matrix.shape, block),
        shape=weight.shape,
    )


def unpack_blocks(packed: BlockWeight) -> NDArray[np.floating]:
    """The dense weight of ``packed.shape`` (inverse of :func:`pack_blocks`)."""
    rb, kb, r, c = packed.grid
    dense = np.zeros((rb * kb, r * c), packed.values.dtype)
    dense[packed.index] = packed.values
    matrix = dense.reshape(rb, kb, r, c).transpose(0, 2, 1, 3).reshape(rb * r, kb * c)
    rows, cols = packed.shape[0], math.prod(packed.shape[1:])
    return np.ascontiguousarray(matrix[:rows, :cols]).reshape(packed.shape)
