"""Weights with a structure, float64, for the tests of forms."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def fourier(n: int, outputs: int | None = None) -> NDArray[np.complex128]:
    """The first outputs of a Fourier transform of n inputs."""
    rows = np.arange(n if outputs is None else outputs)
    matrix: NDArray[np.complex128] = np.exp(-2j * np.pi * np.outer(rows, np.arange(n)) / n)
    return matrix


def spectrum(n: int) -> Matrix:
    """A spectrogram's layer: a window, then real and imaginary parts of n // 2 + 1 outputs."""
    transform = fourier(n, n // 2 + 1) * np.hanning(n)
    return np.concatenate([transform.real, transform.imag])


def cosines(n: int) -> Matrix:
    """An orthonormal cosine transform of type II."""
    matrix = np.cos(np.pi * np.outer(np.arange(n), 2 * np.arange(n) + 1) / (2 * n))
    matrix *= np.sqrt(2 / n)
    matrix[0] /= np.sqrt(2)
    return matrix


def structured(seed: int = 0) -> dict[str, Matrix]:
    """Structure that a weight has exactly, the best by its multiply-adds → the weight."""
    rng = np.random.default_rng(seed)
    return {
        "rank:6": rng.normal(size=(96, 6)) @ rng.normal(size=(6, 64)),
        "kronecker:8x16:1": np.kron(rng.normal(size=(8, 16)), rng.normal(size=(16, 8))),
        "dft:16x32": spectrum(512),
        "dct:16x16": cosines(128),
        "monarch:8x8:2:stride": fourier(64).real,
        "toeplitz:16": scipy.linalg.toeplitz(rng.normal(size=256), rng.normal(size=128)),
        "circulant:16": scipy.linalg.circulant(rng.normal(size=256)),
        "hankel:16": scipy.linalg.hankel(rng.normal(size=256), rng.normal(size=128)),
    }
