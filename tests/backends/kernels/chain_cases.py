"""Chains of convolutions as tests make them, and what they compute."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparsecc.backends.codegen.code_table import Pattern
from sparsecc.backends.kernels.step_harness import IMAGE_KINDS, PLAIN, Array, Step, Tensor, run_step
from sparsecc.backends.kernels.table import CHAIN_BESIDE
from tests.backends.kernels.layers import UNIT, Doubles, Floats, Layer, normal
from tests.backends.kernels.test_kernels import Window

ROUNDING = 2e-6
"""Of a sum, relative to its magnitudes: a few hundred float32 products."""
STEEPEST = 1.2
"""No activation grows faster than this."""


@dataclass(frozen=True)
class Machine:
    """How to run a step, and how many floats its vectors hold."""

    command: list[str]
    lanes: int


@dataclass(frozen=True)
class Chain:
    """Layers in turn, and the value that each of them adds: 0 is the input, -1 is none.

    From ``CHAIN_BESIDE`` on it is one of the inputs beside the first. ``factors`` are what the
    channels of the input are multiplied by, ``[N, C, 1, 1]``, the last of these inputs.
    ``generated``: whether there is machine code for layers whose blocks are 1x1.
    """

    layers: Sequence[Layer]
    residuals: Sequence[int]
    x: Floats
    backwards: bool = False
    beside: Sequence[Floats] = ()
    factors: Floats | None = None
    generated: bool = False

    def step(self) -> Step:
        attributes: list[int] = []
        constants: list[Array] = []
        for layer, residual in zip(self.layers, self.residuals, strict=True):
            attributes += [*layer.place(), layer.group, layer.activation, residual]
            constants += layer.constants()
        last = () if self.factors is None else (self.factors,)
        attributes.append(CHAIN_BESIDE + len(self.beside) if last else -1)
        inputs = [Tensor(x, x.shape, PLAIN) for x in (self.x, *self.beside, *last)]
        how = (self.backwards, 1 + self.backwards)
        patterns = self._patterns() if self.generated else ()
        return Step(
            "chain", attributes, constants, inputs, *how, kinds=IMAGE_KINDS, patterns=patterns
        )

    def _patterns(self) -> list[Pattern]:
        weights = [
            layer.weight.reshape(len(layer.weight), -1)
            for layer in self.layers
            if layer.block == (1, 1) and layer.group == 1
        ]
        return [Pattern(np.flatnonzero(w).astype(np.int32), *w.shape) for w in weights]

    def expected(self) -> tuple[Doubles, Doubles]:
        """The result, and how far rounding may take each element from it."""
        values = [self.x.astype(np.float64) * (1 if self.factors is None else self.factors)]
        errors = [np.zeros_like(values[0])]
        for layer, residual in zip(self.layers, self.residuals, strict=True):
            value = layer.sums(values[-1])
            blurred = replace(layer, bias=ROUNDING * layer.bias)
            error = blurred.sums(errors[-1] + ROUNDING * np.abs(values[-1]), np.absolute)
            if residual >= CHAIN_BESIDE:
                value = value + self.beside[residual - CHAIN_BESIDE]
                error = error + ROUNDING * np.abs(self.beside[residual - CHAIN_BESIDE])
            elif residual >= 0:
                value = value + values[residual]
                error = error + errors[residual] + ROUNDING * np.abs(values[residual])
            values.append(layer.activated(value))
            errors.append(STEEPEST * error + ROUNDING)
        return values[-1], errors[-1]


def with_code(chain: Chain) -> Chain:
    """The same with machine code for all layers that can have it."""
    layers = [replace(each, block=(1, 1)) if each.group == 1 else each for each in chain.layers]
    return replace(chain, layers=layers, generated=True)


def check(chain: Chain, command: Sequence[str]) -> None:
    got = run_step(chain.step(), command)
    want, error = chain.expected()
    assert got.dims == want.shape
    away = np.abs(got.data.reshape(got.dims) - want)
    assert (away <= error).all(), f"{(away > error).mean():.1%} are wrong, by up to {away.max()}"


def weight_of(
    rng: np.random.Generator, shape: tuple[int, ...], block: tuple[int, int], density: float
) -> Floats:
    """A weight with blocks of zeros; what it makes of numbers about one is about one again."""
    matrix = normal(rng, shape[0], int(np.prod(shape[1:])))
    rows, columns = (-(-side // b) for side, b in zip(matrix.shape, block, strict=True))
    kept = np.kron(rng.random((rows, columns)) < density, np.ones(block, np.float32))
    matrix *= kept[: matrix.shape[0], : matrix.shape[1]] / max(1, density * matrix.shape[1]) ** 0.5
    return matrix.reshape(shape).astype(np.float32)


def layers_of(rng: np.random.Generator, channels: Sequence[int], density: float) -> list[Layer]:
    """1x1 layers between these numbers of channels."""
    shapes = [(rows, 1, 1, columns) for columns, rows in itertools.pairwise(channels)]
    weights = [weight_of(rng, shape, (4, 1), density) for shape in shapes]
    return [Layer(weight, normal(rng, len(weight)), UNIT, 1, 1, (4, 1)) for weight in weights]


def same(rng: np.random.Generator, channels: int, side: int = 3, stride: int = 1) -> Layer:
    """A depthwise layer."""
    window = Window((side, side), (stride, stride), pads=(side // 2,) * 4)
    weight = normal(rng, channels, side, side, 1) / side
    return Layer(weight, normal(rng, channels), window, 2, channels, (1, 1))
