"""Bits and values: any zeros, read as they are stored and multiplied as a dense operand.

A weight takes ``2 · density + 1/8`` bytes, .26 of dense at 80 % zeros, where Flash-LLM's positions
(16 bits beside each value) take .4. Values lie in the order of a tensor core's operand, so that
they go from shared memory into registers by counting bits, and are not scattered into a dense tile.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.cuda.forms.base import Form, Matrix, Packed, Product, rounded
from sparsecc.backends.cuda.recipe import Recipe
from sparsecc.backends.cuda.rows.bitmap import (
    COLUMNS,
    ROWS,
    TOKENS,
    VALUES,
    WARPS,
    bitmap_name,
)
from sparsecc.backends.cuda.steps import UNPACKED, by_name, tile_for, tiled
from sparsecc.backends.cuda.table import KERNELS

_UNIT = 8
"""Numbers of 16 bits in what a start counts: 16 bytes."""
_MASK = ROWS * COLUMNS // 16
"""Numbers of 16 bits that a tile's bits take."""


def pack(weight: Matrix, dtype: str) -> Packed:
    """Pack what is not zero; see the module and ``kernels/bitmap.cu``.

    Args:
        weight: ``[rows, columns]``.
        dtype: Of the values.

    Raises:
        BackendError: Values that are no finite numbers.
    """
    rows, columns = weight.shape
    strips, steps = _sides(rows, columns)
    padded = np.zeros((strips * ROWS, steps * COLUMNS), np.uint16)
    padded[:rows, :columns] = (rounded(weight, dtype) + 0).view(np.uint16)  # -0 becomes 0
    tiles = _tiles(padded, strips, steps)
    kept = tiles != 0
    counts = kept.sum(1)
    units = (_MASK + _UNIT - 1) // _UNIT + -(-counts // _UNIT)
    starts = np.concatenate([[0], np.cumsum(units)])
    stream = np.zeros(starts[-1] * _UNIT, np.uint16)
    first = starts[:-1] * _UNIT
    bits = np.packbits(kept, axis=1, bitorder="little").view(np.uint16)
    stream[first[:, None] + np.arange(_MASK)] = bits
    stream[_places(first, counts)] = tiles[kept]
    arrays = {"Stream": stream.view(np.int32), "Starts": starts.astype(np.int32)}
    sizes = {"bfloat": int(dtype == "bfloat16"), "most": int(counts.max(initial=0))}
    return Packed("bitmap", rows, columns, arrays, sizes)


def _sides(rows: int, columns: int) -> tuple[int, int]:
    """Tiles down, as many as blocks of kernels read, and across."""
    return WARPS * math.ceil(rows / (WARPS * ROWS)), math.ceil(columns / COLUMNS)


def _tiles(padded: NDArray[np.uint16], strips: int, steps: int) -> NDArray[np.uint16]:
    """A weight as ``[tiles, numbers]`` in the order of ``kernels/bitmap.cu``."""
    axes = (strips, 2, 8, steps, COLUMNS // 16, 2, 4, 2)  # A's registers: down first, then across
    return padded.reshape(axes).transpose(0, 3, 4, 2, 6, 5, 1, 7).reshape(-1, ROWS * COLUMNS)


def _places(first: NDArray[Any], counts: NDArray[Any]) -> NDArray[Any]:
    """Where values go, tile by tile."""
    before = np.cumsum(counts) - counts
    return np.asarray(np.arange(counts.sum()) + np.repeat(first + _MASK - before, counts))


def unpack(packed: Packed) -> NDArray[np.float32]:
    """The weight ``[rows, columns]``."""
    strips, steps = _sides(packed.rows, packed.columns)
    stream = packed.arrays["Stream"].view(np.uint16)
    first = packed.arrays["Starts"][:-1].astype(np.int64) * _UNIT
    bits = stream[first[:, None] + np.arange(_MASK)].view(np.uint8)
    kept = np.unpackbits(bits, axis=1, bitorder="little").astype(bool)
    tiles = np.zeros(kept.shape, np.uint16)
    tiles[kept] = stream[_places(first, kept.sum(1))]
    axes = (strips, steps, COLUMNS // 16, 8, 4, 2, 2, 2)
    turned = tiles.reshape(axes).transpose(0, 6, 3, 1, 2, 5, 4, 7)
    dense = turned.reshape(strips * ROWS, steps * COLUMNS)
    held = np.ascontiguousarray(dense[: packed.rows, : packed.columns])
    kind = ml_dtypes.bfloat16 if packed.sizes["bfloat"] else np.float16
    return np.asarray(held.view(kind).astype(np.float32))


def recipe(product: Product) -> Recipe:
    """Multiply, and add the parts where columns were split."""
    wide = tile_for(product.tokens, TOKENS)
    values = next(each for each in VALUES if each >= product.sizes["most"])
    kernel = KERNELS[bitmap_name(product.dtype, wide, values)]
    return tiled(product, kernel, by_name(BITMAP.arrays), (WARPS * ROWS, wide), COLUMNS, UNPACKED)


BITMAP = Form(
    name="bitmap",
    arrays=("Stream", "Starts"),
    sizes=("bfloat", "most"),
    pack=pack,
    unpack=unpack,
    recipe=recipe,
)
"""Bits and values."""
