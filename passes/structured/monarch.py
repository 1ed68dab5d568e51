"""Monarch: ``M[(l, j), (k, i)] = Σ_b w2[j, l, (k, b)] · w1[k, (j, b), i]``.

Dao et al. 2022. For each input block k and output class j the slice over ``(l, i)`` is a matrix of
rank b: its singular value decomposition, with the root of the singular values on either side, is
the global optimum, and the residual is what they drop. A fast Fourier transform of two levels is
such a product, with b = 2 for its real and imaginary parts; its inputs go to blocks by strides.
"""

from __future__ import annotations

import math
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
)

MOST_EXACT_RANK = 2
"""The largest b that is looked for."""
_SLICES, _SIDE = 8, 8
"""Slices, and lines of each way through them, that tell most matrices from a Monarch product."""


@dataclass(frozen=True)
class Grid:
    """How outputs and inputs lie on the axes of a Monarch product.

    Attributes:
        k: Blocks of the inputs.
        i: Inputs of a block.
        j: Classes of the outputs.
        l: Outputs of a class, where its last ones may be missing.
        b: Rank of each slice.
        halves: How many times the outputs run through (l, j): a Fourier transform's real and
            imaginary parts are two.
        strided: Whether a block takes every K-th input.
    """

    k: int
    i: int
    j: int
    l: int  # noqa: E741 - as in the formula
    b: int
    halves: int
    strided: bool

    @classmethod
    def of(cls, structure: Structure, shape: Shape) -> Grid:
        """The grid of a structure in a weight ``[R, K]``."""
        k, j = structure.sizes[:2]
        halves = 2 if structure.form == "dft" else 1
        return cls(
            k=k,
            i=shape[1] // k,
            j=j,
            l=math.ceil(shape[0] // halves / j),
            b=structure.sizes[2] if structure.form == "monarch" else 2,
            halves=halves,
            strided=structure.strided or structure.form != "monarch",
        )

    def slices(self, weight: Matrix) -> NDArray[np.float64]:
        """``[K, J, (halves, L), I]`` of a weight; outputs that are missing are zero."""
        rows, missing = weight.shape[0] // self.halves, self.l * self.j
        padded = np.zeros((self.halves, missing, weight.shape[1]))
        padded[:, :rows] = weight.reshape(self.halves, rows, -1)
        inputs = (self.i, self.k) if self.strided else (self.k, self.i)
        cube = padded.reshape(self.halves * self.l, self.j, *inputs)
        order = (3, 1, 0, 2) if self.strided else (2, 1, 0, 3)
        return cube.transpose(order)

    def weight(self, slices: NDArray[np.float64], rows: int) -> Matrix:
        """The weight of slices: the inverse of :meth:`slices`."""
        order = (2, 1, 3, 0) if self.strided else (2, 1, 0, 3)
        padded = slices.transpose(order).reshape(self.halves, self.l * self.j, -1)
        return padded[:, : rows // self.halves].reshape(rows, -1)


def misfit(structure: Structure, shape: Shape) -> str:
    """Why blocks do not fit a weight, or ""."""
    k, j = structure.sizes[:2]
    if shape[1] % k:
        return f"{k} blocks do not divide {shape[1]} inputs"
    if structure.form == "dft" and shape[0] % 2:
        return f"{shape[0]} outputs are not as many real as imaginary parts"
    grid = Grid.of(structure, shape)
    if j > shape[0] // grid.halves:
        return f"{j} classes of {shape[0] // grid.halves} outputs"
    most = min(grid.i, grid.halves * grid.l)
    return f"slices of rank {grid.b}, of {most} that there are" if grid.b > most else ""


def fit(weight: Matrix, structure: Structure, moment: Matrix | None = None) -> Fit:
    """The factors ``(w1[K, J, b, I], w2[J, (halves, L), K, b])``, the best; H is not used."""
    grid = Grid.of(structure, (weight.shape[0], weight.shape[1]))
    u, s, vt = np.linalg.svd(grid.slices(weight), full_matrices=False)
    root = np.sqrt(s[..., : grid.b])
    w2 = (u[..., : grid.b] * root[..., None, :]).transpose(1, 2, 0, 3)
    w1 = root[..., None] * vt[..., : grid.b, :]
    energy = float(np.sum(s**2))
    dropped = float(np.sum(s[..., grid.b :] ** 2))
    return Fit(structure, (w1, w2), dropped / energy if energy else 0.0)


def dense(factors: Factors, structure: Structure, shape: Shape) -> Matrix:
    """The product, multiplied out."""
    w1, w2 = factors
    slices = w2.transpose(2, 0, 1, 3) @ w1
    return Grid.of(structure, shape).weight(slices, shape[0])


def price(structure: Structure, shape: Shape) -> Price:
    """Two batched products between three transpositions."""
    grid = Grid.of(structure, shape)
    inner, out = grid.k * grid.j * grid.b, grid.halves * grid.l * grid.j
    first = Product(grid.k, grid.j * grid.b, grid.i)
    second = Product(grid.j, grid.halves * grid.l, grid.k * grid.b)
    return Price((first, second), (shape[1], inner, out))


def emit(to: Emitter, factors: Factors, structure: Structure, shape: Shape) -> ir.Value:
    """Reshape, MatMul, Transpose, MatMul, Reshape, with the tokens as the last axis.

    So a transposition between the products moves whole rows of tokens.
    """
    tape, grid, (w1, w2) = to.tape, Grid.of(structure, shape), factors
    inputs = (grid.i, grid.k) if grid.strided else (grid.k, grid.i)
    x = tape.op("Reshape", to.x, tape.ints(-1, *inputs))
    x = tape.op("Transpose", x, perm=[2, 1, 0] if grid.strided else [1, 2, 0])
    first = to.factor(w1.reshape(grid.k, grid.j * grid.b, grid.i), "w1")
    inner = tape.op("MatMul", first, x)
    inner = tape.op("Reshape", inner, tape.ints(grid.k, grid.j, grid.b, -1))
    inner = tape.op("Transpose", inner, perm=[1, 0, 2, 3])
    inner = tape.op("Reshape", inner, tape.ints(grid.j, grid.k * grid.b, -1))
    second = to.factor(w2.reshape(grid.j, grid.halves * grid.l, grid.k * grid.b), "w2")
    y = tape.op("MatMul", second, inner)
    y = tape.op("Transpose", y, perm=[2, 1, 0])
    if grid.halves * grid.l * grid.j != shape[0]:
        whole, rows = grid.l * grid.j, shape[0] // grid.halves
        y = tape.op("Reshape", y, tape.ints(-1, grid.halves, whole))
        y = tape.op("Slice", y, tape.ints(0), tape.ints(rows), tape.ints(2))
    return to.back(y, shape[0])


def exact(weight: Matrix) -> list[Structure]:
    """Blocks at which the slices have a rank of one or two."""
    shape = (weight.shape[0], weight.shape[1])
    orders = [
        Structure("monarch", (k, j, rank), strided)
        for rank in range(1, MOST_EXACT_RANK + 1)
        for k in divisors(shape[1])[1:-1]
        for j in divisors(shape[0])[1:-1]
        for strided in (False, True)
    ]
    fitting = [each for each in orders if not misfit(each, shape)]
    return [each for each in cheapest(fitting, price, shape) if _may_be(weight, each)]


def _may_be(weight: Matrix, structure: Structure) -> bool:
    """Whether some entries of some slices have no more than the rank."""
    grid = Grid.of(structure, (weight.shape[0], weight.shape[1]))
    rng = np.random.default_rng(0)
    return all(_has_rank(_some(weight, grid, rng), grid.b) for _ in range(_SLICES))


def _some(weight: Matrix, grid: Grid, rng: np.random.Generator) -> Matrix:
    """Entries of a slice: where some of its rows and columns cross."""
    k, j = rng.integers(grid.k), rng.integers(grid.j)
    ls, places = rng.permutation(grid.l)[:_SIDE], rng.permutation(grid.i)[:_SIDE]
    rows = (ls * grid.j + j) % len(weight)
    cols = places * grid.k + k if grid.strided else k * grid.i + places
    found: Matrix = weight[np.ix_(rows, cols)]
    return found


def _has_rank(matrix: Matrix, rank: int) -> bool:
    s = np.linalg.svd(matrix, compute_uv=False)
    return bool(np.sum(s[rank:] ** 2) <= EXACT**2 * np.sum(s**2))


FORM = Form("monarch", misfit, fit, dense, price, emit, exact)
