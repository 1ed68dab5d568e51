"""What a form of sparse weights is: how it is packed, and which launches multiply by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from sparsecc.backends.cuda.kernel import DTYPES, Arch
from sparsecc.backends.cuda.recipe import Recipe
from sparsecc.errors import BackendError

Matrix = NDArray[np.floating]


@dataclass(frozen=True)
class Packed:
    """A weight ``[rows, columns]``: of each output, one number for each input.

    Attributes:
        form: Name of its form.
        rows: Outputs.
        columns: Inputs.
        arrays: What kernels read, by name.
        sizes: Numbers of this weight that its recipe needs, by name.
    """

    form: str
    rows: int
    columns: int
    arrays: Mapping[str, NDArray[Any]]
    sizes: Mapping[str, int]

    @property
    def nbytes(self) -> int:
        """Of all arrays: what a product has to read at least."""
        return sum(array.nbytes for array in self.arrays.values())


@dataclass(frozen=True)
class Product:
    """``Out[tokens, rows] = X[tokens, columns] · Wᵀ``, as far as launches depend on it.

    Attributes:
        rows: Of W.
        columns: Of W.
        sizes: Of the packed W.
        tokens: Rows of X.
        dtype: Of X, Out and the values of W, as torch names it.
        arch: Of the GPU.
    """

    rows: int
    columns: int
    sizes: Mapping[str, int]
    tokens: int
    dtype: str
    arch: Arch


@dataclass(frozen=True)
class Form:
    """A form of sparse weights.

    Attributes:
        name: Unique.
        arrays: Names of the arrays of a packed weight, in order.
        sizes: Names of its numbers, in order.
        pack: Packs a weight for an element type; raises BackendError where it does not fit.
        unpack: The weight that is multiplied by, ``[rows, columns]``.
        recipe: The launches of a product; tensors are X, Out and the arrays.
        exact: Whether weights stay what they are, but for the rounding to the element type.
    """

    name: str
    arrays: tuple[str, ...]
    sizes: tuple[str, ...]
    pack: Callable[[Matrix, str], Packed]
    unpack: Callable[[Packed], NDArray[np.float32]]
    recipe: Callable[[Product], Recipe]
    exact: bool = True


def check_dtype(dtype: str) -> None:
    """Refuse an element type that kernels do not have.

    Raises:
        BackendError: Always then.
    """
    if dtype not in DTYPES:
        raise BackendError(f"no kernels for {dtype} weights", fix=f"use {' or '.join(DTYPES)}")


def rounded(values: Matrix, dtype: str) -> NDArray[Any]:
    """The nearest numbers of a 16-bit element type to those of float32, ties to even.

    Raises:
        BackendError: Of another element type, or a number becomes infinite.
    """
    check_dtype(dtype)
    with np.errstate(over="ignore"):
        made = np.asarray(values, np.float32).astype(
            ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
        )
    if not np.isfinite(made).all():
        raise BackendError(
            f"a weight is no finite {dtype}: the largest is {np.abs(values).max():g}",
            fix="use bfloat16, or scale the layer",
        )
    return made
