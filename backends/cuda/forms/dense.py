"""A weight with all its numbers: what sparse forms compete with, where no library is there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.cuda.forms.base import Form, Matrix, Packed, Product, rounded
from sparsecc.backends.cuda.recipe import Recipe
from sparsecc.backends.cuda.rows.dense import MULTIPLE, TILES, dense_name
from sparsecc.backends.cuda.steps import by_name, tile_for, tiled
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.errors import BackendError

ALIGNED = 16
"""Columns have to be a multiple, so that a token's inputs begin where a vector may."""


def pack(weight: Matrix, dtype: str) -> Packed:
    """Pack a weight, its columns padded by zeros.

    Args:
        weight: ``[rows, columns]``.
        dtype: Of the values.

    Raises:
        BackendError: The columns are no multiple of 16, or values no finite numbers.
    """
    rows, columns = weight.shape
    if columns % ALIGNED:
        raise BackendError(
            f"a weight [{rows}, {columns}] whose columns are no multiple of {ALIGNED}",
            fix="pad the layer's inputs with zeros",
        )
    padded = np.pad(rounded(weight, dtype), ((0, 0), (0, -columns % MULTIPLE)))
    return Packed("dense", rows, columns, {"Weight": padded}, {})


def unpack(packed: Packed) -> NDArray[np.float32]:
    """The weight ``[rows, columns]``."""
    return packed.arrays["Weight"][:, : packed.columns].astype(np.float32)


def recipe(product: Product) -> Recipe:
    """Multiply, and add the parts where columns were split."""
    wide = tile_for(product.tokens, TILES)
    kernel = KERNELS[dense_name(product.dtype, wide)]
    tile = kernel.constants["ROWS"], wide
    return tiled(product, kernel, by_name(DENSE.arrays), tile, kernel.constants["STEP"], 2)


DENSE = Form(name="dense", arrays=("Weight",), sizes=(), pack=pack, unpack=unpack, recipe=recipe)
"""All numbers."""
