"""What every form of a structured weight has: a fit, a meaning, a price and nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.formats.structures import Structure
from sparsecc.passes.tape import Tape

Matrix = NDArray[np.float64]
Factors = tuple[Matrix, ...]
Shape = tuple[int, int]

EXACT = 1e-5
"""Relative error of a weight up to which a form counts as its exact structure: weights are float32,
and their sums round at about this size."""


@dataclass(frozen=True)
class Product:
    """One of the matrix products that a form runs as.

    Attributes:
        batch: How many matrices there are.
        rows: Of each.
        cols: Of each.
        points: Vectors that each multiplies for one token.
    """

    batch: int
    rows: int
    cols: int
    points: int = 1

    @property
    def parameters(self) -> int:
        """Numbers in the matrices."""
        return self.batch * self.rows * self.cols

    @property
    def macs(self) -> int:
        """Multiply-adds for one token."""
        return self.parameters * self.points


@dataclass(frozen=True)
class Price:
    """What a form costs.

    Attributes:
        products: Its matrix products, in order.
        turned: For each transposition in between: numbers moved for one token.
    """

    products: tuple[Product, ...]
    turned: tuple[int, ...] = ()

    @property
    def parameters(self) -> int:
        """Numbers in all factors."""
        return sum(product.parameters for product in self.products)

    @property
    def macs(self) -> int:
        """Multiply-adds for one token."""
        return sum(product.macs for product in self.products)


@dataclass(frozen=True)
class Fit:
    """Factors of a weight.

    Attributes:
        structure: What they are factors of.
        factors: Arrays, as the form lays them out.
        residual: ``‖W − dense(factors)‖² / ‖W‖²``, weighted by the inputs' moments where the fit
            was.
    """

    structure: Structure
    factors: Factors
    residual: float


@dataclass(frozen=True)
class Form:
    """A form of structured weights.

    Attributes:
        what: Its name in a report.
        misfit: (structure, shape) → why it does not fit a weight ``[R, K]``, or "".
        fit: (weight, structure, moment ``[K, K]`` of the inputs or None) → the best factors.
        dense: (factors, structure, shape) → the weight they stand for.
        price: (structure, shape) → what it costs.
        emit: (tape, x ``[..., K]``, factors as float32, structure, shape) → y ``[..., R]``.
        exact: weight → structures that it may have exactly, the cheapest first; quick.
    """

    what: str
    misfit: Callable[[Structure, Shape], str]
    fit: Callable[[Matrix, Structure, Matrix | None], Fit]
    dense: Callable[[Factors, Structure, Shape], Matrix]
    price: Callable[[Structure, Shape], Price]
    emit: Callable[[Emitter, Factors, Structure, Shape], ir.Value]
    exact: Callable[[Matrix], list[Structure]]


@dataclass(frozen=True)
class Emitter:
    """Writes the nodes of one layer.

    Attributes:
        tape: Takes them.
        x: The activation ``[..., K]``, of known rank.
        dtype: Of the weight.
    """

    tape: Tape
    x: ir.Value
    dtype: np.dtype[np.floating]

    def factor(self, array: Matrix, name: str) -> ir.Value:
        """An initializer of the weight's dtype."""
        return self.tape.weight(name, np.ascontiguousarray(array, self.dtype))

    def back(self, y: ir.Value, features: int) -> ir.Value:
        """Reshape ``y``, whose tokens are one axis, to the leading axes of ``x``."""
        tape, dims = self.tape, list(self.x.shape or ())[:-1]
        known = [dim for dim in dims if isinstance(dim, int)]
        if len(dims) - len(known) <= 1:
            sizes = [dim if isinstance(dim, int) else -1 for dim in dims]
            return tape.op("Reshape", y, tape.ints(*sizes, features))
        leading = tape.op("Slice", tape.op("Shape", self.x), tape.ints(0), tape.ints(len(dims)))
        shape = tape.op("Concat", leading, tape.ints(features), axis=0)
        return tape.op("Reshape", y, shape)


def residual(weight: Matrix, dense: Matrix) -> float:
    """``‖W − V‖² / ‖W‖²``; 0 for a weight of zeros."""
    energy = float(np.vdot(weight, weight))
    return float(np.sum((weight - dense) ** 2)) / energy if energy else 0.0


def divisors(number: int) -> list[int]:
    """Of a number, ascending."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def cheapest(
    structures: Iterable[Structure], price: Callable[[Structure, Shape], Price], shape: Shape
) -> list[Structure]:
    """Structures by their multiply-adds, those that save nothing left out."""
    priced = [(price(each, shape).macs, each) for each in structures]
    worth = [pair for pair in priced if pair[0] < shape[0] * shape[1]]
    return [each for _, each in sorted(worth, key=lambda pair: (pair[0], str(pair[1])))]
