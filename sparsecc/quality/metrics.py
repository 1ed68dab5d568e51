"""How far one set of outputs is from another."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _pair(
    reference: ArrayLike, other: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")
    return a, b


def relative_error(reference: ArrayLike, other: ArrayLike) -> float:
    """``‖other − reference‖² / ‖reference‖²`` over all elements (0 if both are zero)."""
    a, b = _pair(reference, other)
    error, energy = float(np.sum((a - b) ** 2)), float(np.sum(a**2))
    return error / energy if energy > 0 else (0.0 if error == 0 else float("inf"))


def max_relative_error(reference: ArrayLike, other: ArrayLike) -> float:
    """Largest absolute difference over the largest absolute reference value."""
    a, b = _pair(reference, other)
    error = float(np.max(np.abs(a - b), initial=0.0))
    scale = float(np.max(np.abs(a), initial=0.0))
    return error / scale if scale > 0 else (0.0 if error == 0 else float("inf"))


def mean_cosine(reference: ArrayLike, other: ArrayLike) -> float:
    """Mean cosine between the rows (last axis) of two arrays.

    Two zero rows count as 1, a zero row beside another as 0.
    """
    a, b = _pair(reference, other)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    dots = np.sum(a * b, axis=-1)
    both_zero = ~np.any(a, axis=-1) & ~np.any(b, axis=-1)
    cosines = np.divide(dots, norms, out=both_zero.astype(np.float64), where=norms > 0)
    return float(np.mean(cosines))


def top1_agreement(reference: ArrayLike, other: ArrayLike) -> float:
    """Share of rows (last axis) whose largest entry is at the same place."""
    a, b = _pair(reference, other)
    return float(np.mean(a.argmax(axis=-1) == b.argmax(axis=-1)))


def psnr(reference: ArrayLike, other: ArrayLike) -> float:
    """Peak signal-to-noise ratio in dB, the peak being the reference's range."""
    a, b = _pair(reference, other)
    mse = float(np.mean((a - b) ** 2))
    peak = float(np.ptp(a))
    return float("inf") if mse == 0 else 10 * float(np.log10(max(peak, 1e-30) ** 2 / mse))


def spearman(reference: ArrayLike, other: ArrayLike) -> float:
    """Rank correlation of all elements."""
    import scipy.stats  # here, since it takes long to import and only this needs it

    a, b = _pair(reference, other)
    return float(scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic)


def similarity_rank_agreement(reference: ArrayLike, other: ArrayLike) -> float:
    """Spearman correlation of the pairwise cosines within ``[n, d]`` embeddings."""
    a, b = _pair(reference, other)
    upper = np.triu_indices(len(a), k=1)
    similarities = []
    for rows in (a, b):
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        similarities.append((unit @ unit.T)[upper])
    return spearman(*similarities)
