"""Toeplitz, circulant and Hankel weights: a convolution, done in a Fourier basis of blocks.

Cut into blocks of B, a Toeplitz weight is ``W[(a, p), (c, q)] = T_{a−c}[p, q]``: a convolution
along the block number, whose Fourier transform of length M ≥ A + C − 1 (C for a circulant weight)
multiplies each frequency by its own matrix. So three products do it: a small real Fourier transform
along the blocks, one ``[2B, 2B]`` for each frequency, and the inverse transform. At B = √K that is
8·K^1.5 multiply-adds instead of K². A Hankel weight is one whose inputs are read backwards.

It equals ``y = irfft(rfft(c) · conj(rfft(x)))[:n]``, and is what it is because of measurements:
ONNX Runtime's DFT op takes longer than these products, its one-dimensional Conv of one channel
far longer than a dense product (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.formats.structures import Structure
from sparsecc.passes.structured.base import (
    EXACT,
    Emitter,
    Factors,
    Fit,
    Form,
    Matrix,
    Price,
    Product,
    Shape,
    cheapest,
    divisors,
    residual,
)

_FAR = 100
"""How much further from each other two rows may be, squared, than all of the weight is."""


@dataclass(frozen=True)
class _Cut:
    """Blocks of a weight: A at the outputs, C at the inputs, of B each; M around the circle."""

    a: int
    c: int
    b: int
    m: int

    @classmethod
    def of(cls, structure: Structure, shape: Shape) -> _Cut:
        (b,) = structure.sizes
        a, c = shape[0] // b, shape[1] // b
        return cls(a, c, b, c if structure.form == "circulant" else a + c - 1)

    @property
    def frequencies(self) -> int:
        return self.m // 2 + 1


def misfit(structure: Structure, shape: Shape) -> str:
    """Why blocks do not fit a weight, or ""."""
    (b,) = structure.sizes
    if structure.form == "circulant" and shape[0] != shape[1]:
        return f"{shape[0]} x {shape[1]} is not square"
    if shape[0] % b or shape[1] % b:
        return f"blocks of {b} do not divide {shape[0]} x {shape[1]}"
    return ""


def diagonals(weight: Matrix, form: str) -> Matrix:
    """The mean of each diagonal: h of ``W[r, c] = h[r − c + K − 1]``, ``[R + K − 1]``.

    A Hankel weight's anti-diagonals are the diagonals of the weight with its inputs backwards.
    """
    rows, cols = weight.shape
    toeplitz = weight[:, ::-1] if form == "hankel" else weight
    at = np.arange(rows)[:, None] - np.arange(cols)[None] + cols - 1
    if form == "circulant":
        at %= cols
        sums = np.bincount(at.reshape(-1), toeplitz.reshape(-1), cols) / cols
        around: Matrix = sums[np.arange(rows + cols - 1) % cols]
        return around
    sums = np.bincount(at.reshape(-1), toeplitz.reshape(-1))
    means: Matrix = sums / np.bincount(at.reshape(-1))
    return means


def from_diagonals(h: Matrix, form: str, shape: Shape) -> Matrix:
    """The weight that has them."""
    rows, cols = shape
    weight: Matrix = h[np.arange(rows)[:, None] - np.arange(cols)[None] + cols - 1]
    return weight[:, ::-1] if form == "hankel" else weight


def fit(weight: Matrix, structure: Structure, moment: Matrix | None = None) -> Fit:
    """``(F[2f, C], G[f, 2B, 2B], E[A, 2f])`` of the nearest such weight; H is not used."""
    shape = (weight.shape[0], weight.shape[1])
    h = diagonals(weight, structure.form)
    near = from_diagonals(h, structure.form, shape)
    return Fit(structure, _factors(h, structure, shape), residual(weight, near))


def _factors(h: Matrix, structure: Structure, shape: Shape) -> Factors:
    cut = _Cut.of(structure, shape)
    b, m, f = cut.b, cut.m, cut.frequencies
    # T_d[p, q] = h at the diagonal d·B + p − q, for the block diagonals d = −(C − 1) … A − 1
    d = np.arange(m) if structure.form == "circulant" else np.arange(m) - (cut.c - 1)
    inner = np.arange(b)[:, None] - np.arange(b)[None]
    at = d[:, None, None] * b + inner + shape[1] - 1
    blocks = h[np.clip(at, 0, len(h) - 1)]
    if structure.form == "circulant":
        blocks = h[at % shape[1] + shape[1] - 1 - (shape[1] - 1) % shape[1]]
    turns = np.exp(-2j * np.pi * np.outer(np.arange(f), d) / m)
    spectrum = np.einsum("fd,dpq->fpq", turns, blocks)
    into = np.exp(-2j * np.pi * np.outer(np.arange(f), np.arange(cut.c)) / m)
    twice = np.where((np.arange(f) == 0) | (2 * np.arange(f) == m), 1.0, 2.0) / m
    out = twice * np.exp(2j * np.pi * np.outer(np.arange(cut.a), np.arange(f)) / m)
    forward = np.stack([into.real, into.imag], 1).reshape(2 * f, cut.c)
    if structure.form == "hankel":  # inputs backwards: the blocks, and the places in a block
        forward, spectrum = forward[:, ::-1], spectrum[:, :, ::-1]
    return forward, _as_real(spectrum), np.stack([out.real, -out.imag], 2).reshape(cut.a, 2 * f)


def _as_real(complex_blocks: NDArray[np.complex128]) -> Matrix:
    """``[f, 2B, 2B]`` that multiplies (real, imaginary) parts."""
    re, im = complex_blocks.real, complex_blocks.imag
    return np.concatenate([np.concatenate([re, -im], 2), np.concatenate([im, re], 2)], 1)


def dense(factors: Factors, structure: Structure, shape: Shape) -> Matrix:
    """The product, multiplied out."""
    forward, inner, inverse = factors
    cut = _Cut.of(structure, shape)
    b, f = cut.b, cut.frequencies
    blocks = inner.reshape(f, 2, b, 2, b)
    left = inverse.reshape(cut.a, f, 2)
    right = forward.reshape(f, 2, cut.c)
    weight: Matrix = np.einsum("afu,fupvq,fvc->apcq", left, blocks, right, optimize=True)
    return weight.reshape(shape)


def price(structure: Structure, shape: Shape) -> Price:
    """Three products between two transpositions."""
    cut = _Cut.of(structure, shape)
    b, f = cut.b, cut.frequencies
    products = (
        Product(1, 2 * f, cut.c, points=b),
        Product(f, 2 * b, 2 * b),
        Product(1, cut.a, 2 * f, points=b),
    )
    return Price(products, (2 * f * b, 2 * f * b))


def emit(to: Emitter, factors: Factors, structure: Structure, shape: Shape) -> ir.Value:
    """``[T, C, B]`` → ``[T, (f, 2), B]`` → ``[f, T, 2B]`` → ``[T, (f, 2), B]`` → ``[T, A, B]``."""
    tape, (forward, inner, inverse) = to.tape, factors
    cut = _Cut.of(structure, shape)
    b, f = cut.b, cut.frequencies
    x = tape.op("Reshape", to.x, tape.ints(-1, cut.c, b))
    x = tape.op("MatMul", to.factor(forward, "forward"), x)
    x = tape.op("Transpose", tape.op("Reshape", x, tape.ints(-1, f, 2 * b)), perm=[1, 0, 2])
    x = tape.op("MatMul", x, to.factor(inner.transpose(0, 2, 1), "spectrum"))
    x = tape.op("Reshape", tape.op("Transpose", x, perm=[1, 0, 2]), tape.ints(-1, 2 * f, b))
    return to.back(tape.op("MatMul", to.factor(inverse, "inverse"), x), shape[0])


def _exact(form: str, weight: Matrix) -> list[Structure]:
    shape = (weight.shape[0], weight.shape[1])
    if form == "circulant" and shape[0] != shape[1]:
        return []
    toeplitz = weight[:, ::-1] if form == "hankel" else weight
    first, second = toeplitz[:1, :-1], toeplitz[1:2, 1:]
    if residual(first, second) > _FAR * EXACT**2:  # most weights show it in two rows
        return []
    near = from_diagonals(diagonals(weight, form), form, shape)
    if residual(weight, near) > EXACT**2:
        return []
    common = sorted({*divisors(shape[0])} & {*divisors(shape[1])})
    return cheapest([Structure(form, (b,)) for b in common], price, shape)


def _form(name: str, what: str) -> Form:
    return Form(what, misfit, fit, dense, price, emit, lambda weight: _exact(name, weight))


CIRCULANT = _form("circulant", "circulant")
TOEPLITZ = _form("toeplitz", "toeplitz")
HANKEL = _form("hankel", "hankel")
