"""Kronecker products: ``W ≈ Σ_s A_s ⊗ B_s`` with ``A[M, N]``, ``B[R/M, K/N]``.

Van Loan and Pitsianis 1993: rearranged so that each row holds one block of W, the sum is a matrix
of rank r, and its singular value decomposition the best one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sparsecc.formats.structures import Structure
from sparsecc.passes.structured import low_rank
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
)

_MINORS, _FAR = 64, 10
"""2 x 2 minors that tell most matrices from one of rank one, and how far from the relative
error of all a single one may be."""


def misfit(structure: Structure, shape: Shape) -> str:
    """Why the factors do not fit a weight, or ""."""
    m, n, terms = structure.sizes
    if shape[0] % m or shape[1] % n:
        return f"{m} x {n} does not divide {shape[0]} x {shape[1]}"
    most = min(m * n, shape[0] * shape[1] // (m * n))
    return f"{terms} products, of {most} that there are" if terms > most else ""


def rearranged(weight: Matrix, m: int, n: int) -> Matrix:
    """``[M·N, (R/M)·(K/N)]``: a row for each block."""
    p, q = weight.shape[0] // m, weight.shape[1] // n
    return weight.reshape(m, p, n, q).transpose(0, 2, 1, 3).reshape(m * n, p * q)


def fit(weight: Matrix, structure: Structure, moment: Matrix | None = None) -> Fit:
    """The factors ``(A[r, M, N], B[r, R/M, K/N])`` with the least residual; H is not used."""
    m, n, terms = structure.sizes
    p, q = weight.shape[0] // m, weight.shape[1] // n
    found = low_rank.fit(rearranged(weight, m, n), Structure("rank", (terms,)))
    a, b = found.factors
    return Fit(structure, (a.T.reshape(terms, m, n), b.reshape(terms, p, q)), found.residual)


def dense(factors: Factors, structure: Structure, shape: Shape) -> Matrix:
    """``Σ_s A_s ⊗ B_s``."""
    summed: Matrix = np.einsum("smn,spq->mpnq", *factors).reshape(shape)
    return summed


def price(structure: Structure, shape: Shape) -> Price:
    """Two products over the tokens, without a transposition."""
    m, n, terms = structure.sizes
    p, q = shape[0] // m, shape[1] // n
    return Price((Product(1, terms * p, q, points=n), Product(1, m, n * terms, points=p)))


def emit(to: Emitter, factors: Factors, structure: Structure, shape: Shape) -> ir.Value:
    """``[T, N, Q] · Bᵀ`` is ``[T, N, (r, P)]``, read as ``[T, (N, r), P]``; A from the left."""
    tape, (a, b), (m, n, terms) = to.tape, factors, structure.sizes
    p, q = b.shape[1:]
    blocks = tape.op("Reshape", to.x, tape.ints(-1, n, q))
    inner = tape.op("MatMul", blocks, to.factor(b.reshape(terms * p, q).T, "b"))
    stacked = tape.op("Reshape", inner, tape.ints(-1, n * terms, p))
    left = a.transpose(1, 2, 0).reshape(m, n * terms)
    return to.back(tape.op("MatMul", to.factor(left, "a"), stacked), shape[0])


def exact(weight: Matrix) -> list[Structure]:
    """Splits at which the weight is one Kronecker product."""
    shape = (weight.shape[0], weight.shape[1])
    splits = [Structure("kronecker", (m, n, 1)) for m, n in _splits(shape)]
    at = np.unravel_index(int(np.argmax(np.abs(weight))), weight.shape)
    peak = (int(at[0]), int(at[1]))
    return [each for each in cheapest(splits, price, shape) if _may_be(weight, each, peak)]


def _splits(shape: Shape) -> Iterator[tuple[int, int]]:
    for m in divisors(shape[0]):
        for n in divisors(shape[1]):
            if 1 < m * n < shape[0] * shape[1]:
                yield m, n


def _may_be(weight: Matrix, structure: Structure, peak: tuple[int, int]) -> bool:
    """Whether minors around the largest entry vanish, as in a rearrangement of rank one."""
    m, n = structure.sizes[:2]
    p, q = weight.shape[0] // m, weight.shape[1] // n
    row, col = peak
    rng = np.random.default_rng(0)
    block_row, block_col = rng.integers(m, size=_MINORS), rng.integers(n, size=_MINORS)
    inner_row, inner_col = rng.integers(p, size=_MINORS), rng.integers(q, size=_MINORS)
    other = weight[block_row * p + inner_row, block_col * q + inner_col]
    same_block = weight[row // p * p + inner_row, col // q * q + inner_col]
    same_place = weight[block_row * p + row % p, block_col * q + col % q]
    minors = np.abs(weight[row, col] * other - same_block * same_place)
    return bool(minors.max() <= _FAR * EXACT * weight[row, col] ** 2)


FORM = Form("kronecker", misfit, fit, dense, price, emit, exact)
