"""Low rank: ``W ≈ U V`` with ``U[R, r]``, ``V[r, K]``.

The best for inputs of second moment H is a projection of W: with P the projector on the r leading
eigenvectors of ``W H Wᵀ``, ``P W`` minimises ``‖(W − U V) H^½‖`` (Eckart and Young on ``W H^½``),
and no H has to be inverted for it. Only what is left of the smaller side is decomposed.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import scipy.linalg

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
)

MOST_SIDE = 4096
"""Of the smaller side, without lines of zeros, of a weight whose rank is looked at: beyond, it
takes minutes."""


def misfit(structure: Structure, shape: Shape) -> str:
    """Why a rank does not fit a weight, or ""."""
    (rank,) = structure.sizes
    return "" if rank <= min(shape) else f"rank {rank} of a weight of {shape[0]} x {shape[1]}"


def fit(weight: Matrix, structure: Structure, moment: Matrix | None = None) -> Fit:
    """The factors ``(U[R, r], V[r, K])`` with the least (weighted) residual."""
    return fit_in(basis_of(weight, moment), weight, structure)


def fit_in(basis_and_energies: tuple[Matrix, Matrix], weight: Matrix, structure: Structure) -> Fit:
    """The same where :func:`basis_of` the weight is known, which serves every rank."""
    (rank,) = structure.sizes
    basis, energies = basis_and_energies
    u = basis[:, :rank]
    total = float(energies.sum())
    dropped = float(np.clip(energies[rank:], 0, None).sum())
    return Fit(structure, (u, u.T @ weight), dropped / total if total else 0.0)


def dense(factors: Factors, structure: Structure, shape: Shape) -> Matrix:
    """``U V``."""
    return factors[0] @ factors[1]


def price(structure: Structure, shape: Shape) -> Price:
    """Two products."""
    (rank,) = structure.sizes
    return Price((Product(1, rank, shape[1]), Product(1, shape[0], rank)))


def emit(to: Emitter, factors: Factors, structure: Structure, shape: Shape) -> ir.Value:
    """MatMul, MatMul."""
    inner = to.tape.op("MatMul", to.x, to.factor(factors[1].T, "v"))
    return to.tape.op("MatMul", inner, to.factor(factors[0].T, "u"))


def exact(weight: Matrix) -> list[Structure]:
    """The rank of the weight, where it is low enough to save anything."""
    rows, cols = weight.shape
    some = weight[np.ix_(weight.any(axis=1), weight.any(axis=0))]  # lines of zeros have no rank
    if min(some.shape) > MOST_SIDE:
        return []
    rank = min(some.shape) if _is_full(some) else rank_of(some)
    return [Structure("rank", (rank,))] if 0 < rank * (rows + cols) < rows * cols else []


def _is_full(weight: Matrix) -> bool:
    """Whether no singular value is small: quicker to tell than their number."""
    inner = weight @ weight.T if len(weight) <= weight.shape[1] else weight.T @ weight
    inner -= EXACT**2 * np.trace(inner) * np.eye(len(inner))
    return bool(scipy.linalg.lapack.dpotrf(inner, lower=1, overwrite_a=1)[1] == 0)


def rank_of(weight: Matrix) -> int:
    """Singular values beyond which what is left is rounding."""
    energies = np.square(scipy.linalg.svdvals(weight))
    left = np.append(np.cumsum(energies[::-1])[::-1], 0.0)
    return int(np.argmax(left <= EXACT**2 * left[0]))


def basis_of(weight: Matrix, moment: Matrix | None) -> tuple[Matrix, Matrix]:
    """Left singular vectors of ``W H^½``, and squared singular values, the largest first.

    Of a tall weight they are those of ``R H^½`` turned by Q, where ``W = Q R``: H may be singular,
    and rounding may have left it a little less than positive.
    """
    turn, inner = None, weight
    if weight.shape[0] > weight.shape[1]:
        turn, inner = np.linalg.qr(weight)
    square = inner @ inner.T if moment is None else inner @ moment @ inner.T
    values, found = scipy.linalg.eigh(square)
    basis, energies = found[:, ::-1], values[::-1]
    return basis if turn is None else turn @ basis, energies


FORM = Form("low-rank", misfit, fit, dense, price, emit, exact)
