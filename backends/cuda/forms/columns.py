"""Columns kept by tiles of rows: N×1 blocks and BSR.

A tile of 16 or 64 rows keeps the columns in which any of them is not zero. Their values lie as a
tensor core's operand wants them, 64 columns at a time, and inputs are gathered by column: rows of
Xᵀ. What is read is ``density · (2 + 2 / rows of a tile)`` bytes of a weight.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.cuda.forms.base import Form, Matrix, Packed, Product, rounded
from sparsecc.backends.cuda.recipe import Recipe, Step
from sparsecc.backends.cuda.rows.columns import STEP, columns_name
from sparsecc.backends.cuda.steps import by_name, cut_into, parts_of, sum_of, turned
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.errors import BackendError

TILES = (16, 64)
"""Rows of a tile: 64 read inputs a quarter as often."""
WORTH = 1.15
"""Tiles of 64 rows are taken where they store no more than this times what tiles of 16 do."""
MOST_COLUMNS = 2**16
AS_IT_LIES = 2
"""Up to so many tokens are gathered from X itself, without the launch that turns it."""
LOOKED_UP = 2**18
"""As are more, where all programs together look up no more single numbers: about a microsecond's
work, which a launch in a graph takes as well. Not measured yet."""
FEW = 16
"""Tokens of the small tile."""


def pack(weight: Matrix, dtype: str) -> Packed:
    """Pack the columns that tiles of rows keep; see the module.

    Args:
        weight: ``[rows, columns]``.
        dtype: Of the values.

    Raises:
        BackendError: More columns than an index holds, or values that are no finite numbers.
    """
    rows, columns = weight.shape
    if columns > MOST_COLUMNS:
        raise BackendError(
            f"a weight [{rows}, {columns}] has more than {MOST_COLUMNS} columns",
            fix="split the layer along its inputs",
        )
    tile = TILES[0] if _stored(weight, TILES[0]) * WORTH < _stored(weight, TILES[1]) else TILES[1]
    padded = np.zeros((math.ceil(rows / tile), tile, columns), weight.dtype)
    padded.reshape(-1, columns)[:rows] = weight
    kept = (padded != 0).any(1)
    steps = -(-kept.sum(1) // STEP)
    starts = np.concatenate([[0], np.cumsum(steps)]).astype(np.int32)
    places = np.zeros((starts[-1] + 1, STEP), np.uint16)  # one more, which is read but not used
    values = np.zeros((starts[-1], tile, STEP), np.float32)
    for at, (block, which) in enumerate(zip(padded, kept, strict=True)):
        there = np.flatnonzero(which)
        step, slot = starts[at] + np.arange(len(there)) // STEP, np.arange(len(there)) % STEP
        places[step, slot] = there
        values[step, :, slot] = block[:, there].T
    order = np.argsort(-steps, kind="stable").astype(np.int32)
    arrays = {"Values": rounded(values, dtype), "Columns": places, "Starts": starts, "Order": order}
    return Packed("columns", rows, columns, arrays, {"tile": tile, "steps": int(starts[-1])})


def _stored(weight: Matrix, tile: int) -> int:
    """Values that tiles of so many rows store."""
    starts = np.arange(0, len(weight), tile)
    return tile * int((np.add.reduceat(weight != 0, starts) != 0).sum()) if len(weight) else 0


def unpack(packed: Packed) -> NDArray[np.float32]:
    """The weight ``[rows, columns]``."""
    starts, tile = packed.arrays["Starts"], packed.sizes["tile"]
    values = packed.arrays["Values"].astype(np.float32)
    dense = np.zeros((len(starts) - 1, tile, packed.columns), np.float32)
    for at, (begin, end) in enumerate(itertools.pairwise(starts)):
        there = packed.arrays["Columns"][begin:end].astype(int)
        np.add.at(dense[at].T, there, values[begin:end].swapaxes(1, 2))
    return dense.reshape(-1, packed.columns)[: packed.rows]


def recipe(product: Product) -> Recipe:
    """Turn X if it has many tokens, multiply, and add the parts where columns were split."""
    tile, tokens = product.sizes["tile"], product.tokens
    kernel = KERNELS[columns_name(product.dtype, tile, _kind(tokens, product.sizes["steps"]))]
    wide = kernel.constants["TOKENS"]
    tiles = math.ceil(product.rows / tile), math.ceil(tokens / wide)
    steps = product.sizes["steps"] // max(1, tiles[0])
    splits = cut_into(product, tiles, wide, steps, 2 * steps * STEP * tile)
    first, x, strides = [], "X", (1, product.columns)
    scratch = parts_of(product, splits)
    if kernel.constants["TURNED"]:
        step, shape = turned(product, wide)
        first, x, strides = [step], "Turned", (shape[1], 1)
        scratch["Turned"] = (product.dtype, shape)
    multiply = Step(
        kernel,
        (*tiles, splits),
        {
            **by_name((*COLUMNS.arrays, "Out", "Parts")),
            "X": x,
            "x_column": strides[0],
            "x_token": strides[1],
            "tokens": tokens,
            "rows": product.rows,
            "splits": splits,
        },
    )
    return Recipe((*first, multiply, *sum_of(product, splits)), scratch)


def _kind(tokens: int, steps: int) -> str:
    if tokens <= AS_IT_LIES or (tokens <= FEW and steps * STEP * tokens <= LOOKED_UP):
        return "lies"
    return "few" if tokens <= FEW else "many"


COLUMNS = Form(
    name="columns",
    arrays=("Values", "Columns", "Starts", "Order"),
    sizes=("tile", "steps"),
    pack=pack,
    unpack=unpack,
    recipe=recipe,
)
