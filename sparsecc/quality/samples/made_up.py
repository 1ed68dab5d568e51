"""Made-up calibration inputs, for who has none: as near to real ones as the model itself tells."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.progress import Progress
from sparsecc.quality.example_inputs import InputSpec, example_inputs, input_specs
from sparsecc.quality.samples.base import BATCH, Batches, Feed, Samples, check_limit
from sparsecc.quality.samples.noise import Noise, fit_noise
from sparsecc.quality.samples.tables import table_rows

SAMPLES = 256
WORD = "generated"
"""What stands for such inputs in place of a file."""
COST = (
    "calibrating on generated inputs: the model loses more than with real ones, "
    "docs/calibration.md says how much, and its reported quality is that on made-up inputs"
)
_CHANNELS = (1, 3, 4)
_BYTES = (128.0, 64.0)  # mean and deviation of pictures in bytes


def generated(
    *, samples: int = SAMPLES, shapes: Mapping[str, Sequence[int]] | None = None, seed: int = 0
) -> Samples:
    """Inputs made up from the model alone; a warning says what that costs.

    Token numbers are uniform over the rows of the table that they choose from, token types 0, masks
    ones, pictures noise that fits the first BatchNorm, other floats standard normal.

    Args:
        samples: How many.
        shapes: Input name → shape of one sample, where the model leaves it open and a small
            picture or a short sequence will not do.
        seed: Of the random values.
    """

    def of(model: ir.Model, progress: Progress) -> Batches:
        warnings.warn(COST, UserWarning, stacklevel=2)
        specs, rows = input_specs(model), table_rows(model)
        noises = {
            spec.name: fit_noise(model, spec.name, channels)
            for spec in specs
            if _is_picture(spec) and isinstance(channels := spec.dims[1], int)
        }
        feeds: list[Feed] = []
        made = 0
        while made < samples:
            progress("making up inputs", made / samples)
            batch = min(BATCH, samples - made)
            feed = example_inputs(model, seed + len(feeds), batch, shapes)
            rng = np.random.default_rng([seed, len(feeds)])
            feeds.append({s.name: _typical(s, feed[s.name], noises, rows, rng) for s in specs})
            made += max([1, *(len(array) for array in feed.values() if array.ndim)])
        return Batches(tuple(feeds), np.arange(0))

    check_limit(samples)
    return Samples(of)


def _is_picture(spec: InputSpec) -> bool:
    kind = spec.dtype.kind == "f" or spec.dtype == np.uint8
    return kind and len(spec.dims) == 4 and spec.dims[1] in _CHANNELS


def _typical(
    spec: InputSpec,
    array: NDArray[Any],
    noises: Mapping[str, Noise],
    rows: Mapping[str, int],
    rng: np.random.Generator,
) -> NDArray[Any]:
    """An input like `array`, with values that such an input has."""
    if spec.name in noises:
        drawn = noises[spec.name].draw(array.shape, rng)
        if spec.dtype == np.uint8:
            drawn = np.clip((drawn * _BYTES[1] + _BYTES[0]).round(), 0, 255)
        return drawn.astype(spec.dtype)
    if "type" in spec.name.lower() and spec.dtype.kind in "iu":
        return np.zeros_like(array)
    if spec.name in rows and "mask" not in spec.name.lower():
        return rng.integers(0, rows[spec.name], array.shape).astype(spec.dtype)
    return array


__all__ = ["COST", "SAMPLES", "WORD", "generated"]
