"""Convolutions as tests of steps over images make them, and what they compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsecc import ops
from sparsecc.backends.kernels.step_harness import Array
from sparsecc.formats.blocks import pack_blocks
from sparsecc.ops.sparse_conv import linear
from tests.backends.kernels.test_kernels import Window

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

DENSITIES = (0.0, 0.1, 0.5, 1.0)
SEEDS = st.integers(0, 2**32 - 1)
ACTIVATIONS = st.integers(0, len(ops.ACTIVATIONS) - 1)
UNIT = Window((1, 1))


def normal(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Layer:
    """A convolution: its weight is ``[O, kh, kw, I/group]``, packed in blocks."""

    weight: Floats
    bias: Floats
    window: Window
    activation: int
    group: int
    block: tuple[int, int]

    def constants(self) -> list[Array]:
        """As the step takes them."""
        packed = pack_blocks(self.weight, self.block)
        sizes = (np.array(part, np.int64) for part in (packed.grid, packed.shape))
        return [packed.values, packed.index, *sizes, self.bias]

    def place(self) -> list[int]:
        """Strides, pads and dilations."""
        return [*self.window.strides, *self.window.pads, *self.window.dilations]

    def sums(self, x: Doubles, change: np.ufunc = np.positive) -> Doubles:
        """The result before the activation, of changed numbers."""
        window = self.window
        attributes = {
            "strides": list(window.strides),
            "pads": list(window.pads),
            "dilations": list(window.dilations),
            "group": self.group,
        }
        parts = (change(part.astype(np.float64)) for part in (x, self.weight, self.bias))
        return np.asarray(linear(*parts, attributes), np.float64)

    def activated(self, sums: Doubles) -> Doubles:
        return np.asarray(ops.ACTIVATIONS[self.activation].meaning(sums), np.float64)
