"""Numbers to bytes: scales, zero points and the rounding of ONNX."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = 255
WEIGHT_LEVELS = 127
LARGEST = 2**31 - 1
BIAS_LEVELS = 2**24
"""Of a bias in units of its row: as many as a float32 tells apart."""


@dataclass(frozen=True)
class Scale:
    """A number is ``(byte - zero) * scale``.

    Attributes:
        scale: Positive, a float32.
        zero: The byte that stands for 0.
    """

    scale: float
    zero: int

    def byte(self, number: float) -> int:
        """The nearest byte, ties to even, kept in 0..255."""
        return int(np.clip(np.rint(number / self.scale) + self.zero, 0, LEVELS))


def scale_of(low: float, high: float) -> Scale:
    """The scale whose 256 bytes reach from ``low`` to ``high``, zero always among them."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / LEVELS))
    if not scale > 0:
        return Scale(1.0, 0)
    return Scale(scale, int(np.clip(np.rint(-low / scale), 0, LEVELS)))


def quantize_rows(
    weight: NDArray[np.floating], axis: int = 0, least: NDArray[np.floating] | float = 0.0
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight as bytes -127..127 and one scale for each index along ``axis``; zeros stay zeros.

    Args:
        weight: The weight.
        axis: Along which there are scales.
        least: The smallest scale, one for each index or one for all.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    most = np.abs(weight).max(axis=others, initial=0.0).astype(np.float64)
    scale = np.where(most > 0, most / WEIGHT_LEVELS, 1.0).astype(np.float32)
    scale = np.maximum(scale, np.maximum(least, np.finfo(np.float32).tiny)).astype(np.float32)
    wide = np.expand_dims(scale, others).astype(np.float64)
    rounded = np.rint(weight / wide).clip(-WEIGHT_LEVELS, WEIGHT_LEVELS)
    return rounded.astype(np.int8), scale


def least_scale(bias: NDArray[np.floating] | None, input_scale: float) -> NDArray[np.floating]:
    """The smallest scales of the rows of a weight with which its bias stays far below 32 bits.

    Channels that training left without weights still have a bias: in units of their own scale it
    would be huge.
    """
    return np.abs(np.zeros(1) if bias is None else bias) / (input_scale * BIAS_LEVELS)


def quantize_bias(bias: NDArray[np.floating], scale: NDArray[np.floating]) -> NDArray[np.int32]:
    """A bias in units of ``scale``: input scale times weight scale, per row."""
    return np.rint(bias / scale.astype(np.float64)).clip(-LARGEST, LARGEST).astype(np.int32)
