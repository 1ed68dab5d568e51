"""Fourier and cosine transforms, with any window before them and any scale behind.

``dft``: the real parts of ``Σ_t exp(∓2πi f t / n) x_t`` for f = 0 … m − 1, then the imaginary
ones; a spectrogram's layer. ``dct``: type II, ``cos(π (2t + 1) f / 2n)``. Both are Monarch
products with b = 2, where K·J is n (2n for cosines).
They run as those: ONNX Runtime's DFT op was measured slower than two batched products of real
numbers (docs/performance.md).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from sparsecc.formats.structures import Structure
from sparsecc.passes.structured import monarch
from sparsecc.passes.structured.base import EXACT, Matrix, cheapest, divisors

_MOST_TRIED = 8
"""Splits that are offered, the cheapest first."""


def exact_dft(weight: Matrix) -> list[Structure]:
    """Splits of the transform, where the weight is one."""
    rows, n = weight.shape
    m = rows // 2
    if rows % 2 or m > n or m < 2 or not _is_small(weight[m], weight):  # sin(0) = 0
        return []
    for sign in (1, -1):
        if not _is_small(_turned_back(weight, 2, sign).imag, weight):
            continue  # most weights show it in two rows
        turned = _turned_back(weight, m, sign)
        if _is_outer(turned.real) and _is_small(turned.imag, weight):
            shape = (rows, n)
            splits = [Structure("dft", (k, n // k)) for k in divisors(n)[1:-1]]
            return _offered(splits, shape)
    return []


def _turned_back(weight: Matrix, rows: int, sign: int) -> NDArray[np.complex128]:
    """The first outputs without their turning: of a transform that is its window, times scales."""
    m, n = len(weight) // 2, weight.shape[1]
    angle = 2 * np.pi * np.outer(np.arange(rows), np.arange(n)) / n
    turned: NDArray[np.complex128] = weight[:rows] + 1j * weight[m : m + rows]
    turned *= np.exp(1j * sign * angle)
    return turned


def exact_dct(weight: Matrix) -> list[Structure]:
    """Splits of the cosine transform, where the weight is one."""
    rows, n = weight.shape
    if rows > n or rows < 2:
        return []
    window = weight[0]  # the first row of cosines is all ones
    if not _is_outer(np.stack([weight[1], _cosines(2, n)[1] * window])):
        return []
    cosines = _cosines(rows, n)
    norms = np.sum((cosines * window) ** 2, axis=1)
    if not norms.all():
        return []
    scales = np.sum(weight * cosines * window, axis=1) / norms
    if not _is_small(weight - scales[:, None] * cosines * window, weight):
        return []
    splits = [
        Structure("dct", (k, 2 * n // k)) for k in divisors(n) if k > 1 and 2 * n // k <= rows
    ]
    return _offered(splits, (rows, n))


def _cosines(rows: int, n: int) -> Matrix:
    angle = np.pi * np.outer(np.arange(rows), 2 * np.arange(n) + 1) / (2 * n)
    cosines: Matrix = np.cos(angle)
    return cosines


def _offered(splits: list[Structure], shape: tuple[int, int]) -> list[Structure]:
    fitting = [each for each in splits if not monarch.misfit(each, shape)]
    return cheapest(fitting, monarch.price, shape)[:_MOST_TRIED]


def _is_small(error: NDArray[np.floating], whole: Matrix) -> bool:
    return float(np.sum(error**2)) <= EXACT**2 * float(np.sum(whole**2))


def _is_outer(real: Matrix) -> bool:
    """Whether a matrix is a column times a row."""
    row = real[int(np.argmax(np.sum(real**2, axis=1)))]
    right = row / (np.linalg.norm(row) or 1.0)
    return _is_small(real - np.outer(real @ right, right), real)


DFT = dataclasses.replace(monarch.FORM, what="dft", exact=exact_dft)
DCT = dataclasses.replace(monarch.FORM, what="dct", exact=exact_dct)
