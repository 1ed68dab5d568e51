"""Noise that stands for pictures: with the figures that a model's first BatchNorm remembers.

A BatchNorm keeps mean and variance of what it saw in training. Where the first layer of a model
ends in one, a Gaussian picture is sought for which that layer sees these figures. With power s_b in
the band b of frequencies and filters w_c of the layer,
var_c = Σ_b s_b · mean over f in b of |ŵ_c(f)|², solved for s ≥ 0; the means are linear in those of
the input.

Without one, pictures have mean 0, variance 1 and equal power in every octave, as photographs have
(D. J. Field, J. Opt. Soc. Am. A 4, 1987).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy import optimize

from sparsecc.passes.edit import constant, is_op

Array = NDArray[np.float64]

_GRID = 32  # frequencies a side on which filters are compared
_EDGES = np.array([1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2])
"""Between bands, in periods per pixel: octaves, the lowest with the mean of a picture."""
_BANDS = len(_EDGES) + 1
_GREY = 0.75  # share of the power that all channels have in common, where nothing is known
_UNCHANGED = ("Cast", "Identity", "Pad")


@dataclasses.dataclass(frozen=True)
class Noise:
    """A Gaussian over pictures.

    Attributes:
        mean: Of each channel, [C].
        grey: Power of each band that all channels have in common, [bands].
        color: Power of each band that each channel has alone, [bands].
    """

    mean: Array
    grey: Array
    color: Array

    def draw(self, shape: tuple[int, int, int, int], rng: np.random.Generator) -> Array:
        """Pictures of a shape [N, C, height, width]."""
        count, channels, height, width = shape
        band = _bands(height, width)
        sizes = np.bincount(band.ravel(), minlength=_BANDS)
        common = rng.standard_normal((count, 1, height, width))
        alone = rng.standard_normal((count, channels, height, width))
        made = np.zeros(shape)
        for white, power in ((common, self.grey), (alone, self.color)):
            spectrum = (power * band.size / np.maximum(sizes, 1))[band]
            made += np.fft.ifft2(np.fft.fft2(white) * np.sqrt(spectrum)).real
        return made + self.mean[:, None, None]


def fit_noise(model: ir.Model, name: str, channels: int) -> Noise:
    """The noise that stands for the pictures of an input.

    Args:
        model: The model, as it was captured.
        name: Of the input.
        channels: Of its pictures.
    """
    found = _first_norm(model, name)
    if found is None or found[0].shape[1] != channels:
        power = np.full(_BANDS, 1.0 / _BANDS)
        return Noise(np.zeros(channels), power * _GREY, power * (1 - _GREY))
    return _matched(*found)


def _matched(weight: Array, mean: Array, variance: Array) -> Noise:
    """The noise for which filters [O, C, h, w] give these means and variances [O]."""
    deviation = np.sqrt(variance)
    means, *_ = np.linalg.lstsq(weight.sum((2, 3)) / deviation[:, None], mean / deviation)
    response = np.fft.fft2(weight, (_GRID, _GRID))
    band = _bands(_GRID, _GRID)
    gains = np.concatenate(
        [
            _by_band(np.abs(response.sum(1)) ** 2, band),
            _by_band((np.abs(response) ** 2).sum(1), band),
        ],
        axis=1,
    )
    power, _ = optimize.nnls(gains / variance[:, None], np.ones(len(variance)))
    return Noise(means, power[:_BANDS], power[_BANDS:])


def _by_band(values: Array, band: NDArray[np.intp]) -> Array:
    """Mean over the frequencies of each band: [O, h, w] → [O, bands]."""
    return np.stack([values[:, band == each].mean(1) for each in range(_BANDS)], axis=1)


def _bands(height: int, width: int) -> NDArray[np.intp]:
    """Number of the band of each frequency, [height, width]."""
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    return np.asarray(np.searchsorted(_EDGES, radius, side="right"))


def _first_norm(model: ir.Model, name: str) -> tuple[Array, Array, Array] | None:
    """Filters of the layer that reads an input, and mean and variance that its BatchNorm saw."""
    value = next(each for each in model.graph.inputs if each.name == name)
    while True:
        node = next((node for node, _ in value.uses()), None)
        if node is None or len(value.uses()) != 1:
            return None
        if not is_op(node, *_UNCHANGED):
            break
        value = node.outputs[0]
    if not is_op(node, "Conv") or node.attributes.get_int("group", 1) != 1:
        return None
    norm = next((reader for reader, _ in node.outputs[0].uses()), None)
    if norm is None or not is_op(norm, "BatchNormalization"):
        return None
    weight, mean, variance = (constant(v) for v in (node.inputs[1], *norm.inputs[3:5]))
    if weight is None or mean is None or variance is None or weight.ndim != 4:
        return None
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    shift = np.zeros(len(mean)) if bias is None else np.asarray(bias, np.float64)
    alive = np.asarray(variance) > 1e-6 * np.max(variance)  # dead filters tell nothing
    parts = weight[alive], (mean - shift)[alive], variance[alive]
    return tuple(np.asarray(part, np.float64) for part in parts)  # type: ignore[return-value]


__all__ = ["Noise", "fit_noise"]
