"""All of a weight as codes of four bits, in groups of 128 inputs: what kept groups compete with.

What is read is 4.25 bits of each number; nothing has to say where it belongs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.cuda.forms.base import Form, Matrix, Packed, Product, check_dtype
from sparsecc.backends.cuda.forms.code_recipe import recipe_of
from sparsecc.backends.cuda.forms.codes import (
    PACK,
    Coded,
    dequantized,
    mixed,
    parts_of,
    quantized,
    turns_of,
    unmixed,
    words_of,
)
from sparsecc.backends.cuda.recipe import Recipe
from sparsecc.backends.cuda.rows.groups import GROUP_OF_ALL, SLOTS
from sparsecc.errors import BackendError


def pack(weight: Matrix, dtype: str) -> Packed:
    """Round a weight to codes and pack them.

    Args:
        weight: ``[rows, columns]``.
        dtype: Of X and Out.

    Raises:
        BackendError: Columns are no multiple of 32, or a number has no float16 scale.
    """
    check_dtype(dtype)
    return pack_codes(quantized(weight, GROUP_OF_ALL))


def pack_codes(coded: Coded) -> Packed:
    """Pack codes that are given, in groups of 128 inputs.

    Raises:
        BackendError: Of other groups, or columns are no multiple of 32.
    """
    rows, columns = len(coded.codes), coded.columns
    if columns % PACK or coded.group != GROUP_OF_ALL:
        raise BackendError(
            f"a weight [{rows}, {columns}] in groups of {coded.group} inputs is not packed: "
            f"codes of all are read {PACK} at a time, in groups of {GROUP_OF_ALL}",
            fix=f"pad its inputs to a multiple of {PACK}, and use groups of {GROUP_OF_ALL}",
        )
    codes = coded.codes.reshape(rows, -1)[:, :columns].reshape(-1, PACK)
    arrays = {
        "Codes": mixed(codes, _turns(rows, columns)).view(np.int32),
        "Words": words_of(coded.scales, coded.zeros).view(np.int32),
    }
    return Packed("codes4", rows, columns, arrays, {})


def unpack(packed: Packed) -> NDArray[np.float32]:
    """The weight ``[rows, columns]``."""
    rows, columns = packed.rows, packed.columns
    turns = _turns(rows, columns)
    scales, zeros, _ = parts_of(packed.arrays["Words"].view(np.uint32))
    codes = np.zeros((rows, scales.shape[1] * GROUP_OF_ALL), np.uint8)
    words = packed.arrays["Codes"].view(np.uint32)
    codes[:, :columns] = unmixed(words, turns, PACK).reshape(rows, columns)
    shape = (*scales.shape, GROUP_OF_ALL)
    return dequantized(Coded(codes.reshape(shape), scales, zeros, columns))


def recipe(product: Product) -> Recipe:
    """Programs take rows, or tiles of them; see :func:`recipe_of`."""
    unread = {"Firsts": "Words", "Places": "Words"}
    return recipe_of(product, GROUP_OF_ALL, math.ceil(product.rows / SLOTS), {}, unread)


def _turns(rows: int, columns: int) -> NDArray[np.int64]:
    return np.tile(turns_of(np.arange(columns // PACK), PACK), rows)


CODES4 = Form(
    name="codes4",
    arrays=("Codes", "Words"),
    sizes=(),
    pack=pack,
    unpack=unpack,
    recipe=recipe,
    exact=False,
)
"""All as codes of four bits."""
