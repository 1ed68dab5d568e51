"""2:4: of four consecutive inputs two are kept, which sparse tensor cores multiply.

Values and two bits for each, 9/16 of dense, in the order of ``mma.sp.m16n8k32``'s operands; its
registers are described in ``kernels/instructions.h``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.cuda.forms.base import Form, Matrix, Packed, Product, rounded
from sparsecc.backends.cuda.recipe import Recipe
from sparsecc.backends.cuda.rows.two_of_four import DEPTH, TALL, TOKENS, two_of_four_name
from sparsecc.backends.cuda.steps import by_name, tile_for, tiled
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.errors import BackendError

_PAIR = 32
"""Rows that share words of bits."""


def _places() -> NDArray[np.int64]:
    """For every set of kept ones of four, as bits: places of two that hold them, in order."""
    kept = np.arange(16)[:, None] >> np.arange(4) & 1
    return np.sort(np.argsort(1 - kept, axis=1, kind="stable")[:, :2], axis=1)


_PLACES = _places()


def pack(weight: Matrix, dtype: str) -> Packed:
    """Pack a weight ``[rows, columns]`` whose zeros are 2:4.

    Raises:
        BackendError: Four consecutive columns hold more than two, or values that are no finite
            numbers.
    """
    rows, columns = weight.shape
    steps = math.ceil(columns / DEPTH)
    padded = np.zeros((TALL * math.ceil(rows / TALL), steps * DEPTH), np.float32)
    padded[:rows, :columns] = weight
    fours = (rounded(padded, dtype) + 0).reshape(len(padded), -1, 4)  # -0 becomes 0
    kept = fours != 0
    if (kept.sum(2) > 2).any():
        row, four, _ = np.argwhere(kept.sum(2, keepdims=True) > 2)[0]
        raise BackendError(
            f"a weight [{rows}, {columns}] is not 2:4: row {row} keeps more than two of columns "
            f"{4 * four} to {4 * four + 3}",
            fix="prune it to 2:4, or use the form bitmap",
        )
    places = _PLACES[kept @ (1 << np.arange(4))]
    values = np.take_along_axis(fours, places, 2).reshape(
        len(padded) // 16, 2, 8, steps, 2, 2, 4, 2
    )
    codes = (places[..., 0] | places[..., 1] << 2).reshape(-1, _PAIR // 16, 2, 8, steps, 2, 2, 4)
    words = (codes << 4 * np.arange(4)).sum(-1).astype(np.uint16)
    arrays = {
        # strip, down, row, turn, half, across, place, pair → operands by lanes
        "Values": np.ascontiguousarray(values.transpose(0, 3, 4, 2, 6, 5, 1, 7)),
        # pair, strip, down, row, turn, half, columns → words by lanes
        "Bits": np.ascontiguousarray(words.transpose(0, 4, 5, 3, 1, 6, 2)).view(np.int32),
    }
    return Packed("2:4", rows, columns, arrays, {})


def unpack(packed: Packed) -> NDArray[np.float32]:
    """The weight ``[rows, columns]``."""
    values = packed.arrays["Values"].astype(np.float32).transpose(0, 6, 3, 1, 2, 5, 4, 7)
    high = math.prod(values.shape[:3])
    words = packed.arrays["Bits"].view(np.uint16).transpose(0, 4, 6, 3, 1, 2, 5)
    codes = (words[..., None] >> 4 * np.arange(4)).reshape(high, -1)
    places = np.stack([codes & 3, codes >> 2 & 3], 2)
    dense = np.zeros((*codes.shape, 4), np.float32)
    np.put_along_axis(dense, places.astype(np.int64), values.reshape(*codes.shape, 2), 2)
    return dense.reshape(high, -1)[: packed.rows, : packed.columns]


def recipe(product: Product) -> Recipe:
    """Multiply, and add the parts where columns were split."""
    wide = tile_for(product.tokens, TOKENS)
    kernel = KERNELS[two_of_four_name(product.dtype, wide)]
    return tiled(product, kernel, by_name(TWO_OF_FOUR.arrays), (TALL, wide), DEPTH, 9 / 8)


TWO_OF_FOUR = Form(
    name="2:4",
    arrays=("Values", "Bits"),
    sizes=(),
    pack=pack,
    unpack=unpack,
    recipe=recipe,
)
"""Two of four."""
