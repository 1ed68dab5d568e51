"""Sounds as inputs of a model: raw waves at its rate, cut or padded to its length."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import CalibrationError
from sparsecc.progress import Progress
from sparsecc.quality.example_inputs import InputSpec
from sparsecc.quality.samples.base import (
    LIMIT,
    Feed,
    Samples,
    affordable,
    files,
    only_input,
    spread,
    unreadable,
)
from sparsecc.quality.samples.settings import Settings, make_settings, settings_for

SUFFIXES = (".wav",)
RATE = 16_000
"""Samples per second where nothing says another number: what models of speech take."""
SECONDS = 10.0
_MOST_BYTES = 1 << 28
_RATES = range(1000, 768_001)
_TINY = 1e-7  # added to a variance, as the feature extractors of transformers do


def waves(
    folder: str | os.PathLike[str],
    *,
    settings: Settings | str | os.PathLike[str] | None = None,
    rate: int | None = None,
    seconds: float = SECONDS,
    normalize: bool | None = None,
    processor: Any = None,
    limit: int = LIMIT,
) -> Samples:
    """Sounds of a folder (wav: PCM of 8 to 32 bits, or floats), as the one input of a model.

    Values go from -1 to 1. A model of one channel gets the mean of all.

    Args:
        folder: Where they are, folders in it included.
        settings: A ``preprocessor_config.json`` or an object of such settings; by default the
            file of that name in the folder, if there is one.
        rate: Samples per second that the model takes; by default the settings', else 16000. Others
            are resampled.
        seconds: Length, where the model leaves it open: the longest sound is, but at most so long.
        normalize: Whether each sound gets mean 0 and deviation 1; by default as the settings say.
        processor: A feature extractor of the transformers library, which makes of the waves what
            the model takes, such as a spectrogram.
        limit: How many at most; of more, every so many-th.

    Raises:
        CalibrationError: When the samples are read: a file is no sound, or the model takes none;
            names it.
    """

    def of(model: ir.Model, progress: Progress) -> Feed:
        suits = _is_wave if processor is None else _is_float
        spec = only_input(model, suits, "sounds", "float32[N, samples]")
        found = files(folder, SUFFIXES, "sounds")
        chosen = make_settings(
            settings_for(folder, settings),
            sampling_rate=rate,
            do_normalize=normalize,
        )
        wanted = chosen.sampling_rate or RATE
        last = spec.dims[-1]
        fixed = last if isinstance(last, int) and processor is None else None
        most = fixed or max(1, round(seconds * wanted))
        paths = spread(found, affordable(limit, [most, _channels(spec)]))
        sounds = []
        for at, path in enumerate(paths):
            progress("reading sounds", at / len(paths))
            sounds.append(_resampled(path, wanted, most, _channels(spec)))
        if processor is not None:
            return {spec.name: _processed(sounds, processor, wanted, spec)}
        length = fixed or max(sound.shape[1] for sound in sounds)
        made = np.zeros((len(sounds), len(sounds[0]), length), spec.dtype)
        for row, sound in zip(made, sounds, strict=True):
            row[:, : sound.shape[1]] = _standard(sound) if chosen.do_normalize else sound
        return {spec.name: made if len(spec.dims) == 3 else made[:, 0]}

    return Samples(of)


def _is_float(spec: InputSpec) -> bool:
    return spec.dtype.kind == "f" and len(spec.dims) >= 2


def _is_wave(spec: InputSpec) -> bool:
    return spec.dtype.kind == "f" and len(spec.dims) in (2, 3)


def _channels(spec: InputSpec) -> int:
    middle = spec.dims[1] if len(spec.dims) == 3 else 1
    return middle if isinstance(middle, int) else 1


def _resampled(path: Path, rate: int, most: int, channels: int) -> NDArray[np.float64]:
    """A sound as [channels, at most so many samples] at a rate.

    Raises:
        CalibrationError: It cannot be read, or has other channels.
    """
    from scipy.signal import resample_poly

    had, values = _read(path)
    if channels == 1:
        values = values.mean(1, keepdims=True)
    elif values.shape[1] != channels:
        raise CalibrationError(
            f"{path} has {values.shape[1]} channels, the model takes {channels}",
            fix=f"pass sounds of {channels} channels, or write an .npz file",
        )
    if had == rate:
        return np.ascontiguousarray(values[:most].T)
    common = math.gcd(had, rate)
    enough = values[: -(-most * had // rate) + 1]
    return np.asarray(resample_poly(enough.T, rate // common, had // common, axis=1))[:, :most]


def _read(path: Path) -> tuple[int, NDArray[np.float64]]:
    """Rate of a sound, and its values [samples, channels] from -1 to 1."""
    from scipy.io import wavfile

    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES >> 20} MB")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
            warnings.filterwarnings("ignore", "Chunk", wavfile.WavFileWarning)
            rate, values = wavfile.read(path)
        if rate not in _RATES:
            raise ValueError(f"{rate} samples per second")
        if values.size == 0:
            raise ValueError("it is empty")
    except Exception as error:  # the reader raises what it likes on foreign bytes
        raise unreadable(path, ".wav file", error) from error
    made = _scaled(values).reshape(len(values), -1)
    if not np.isfinite(made).all():
        raise unreadable(path, ".wav file", "it holds NaN or infinity")
    return int(rate), made


def _scaled(values: NDArray[Any]) -> NDArray[np.float64]:
    """Numbers of a file, -1 to 1; scipy shifts 24 bits to the upper ones of 32."""
    if values.dtype == np.uint8:
        return (values.astype(np.float64) - 128) / 128
    if values.dtype.kind == "i":
        return values / -float(np.iinfo(values.dtype).min)
    return values.astype(np.float64)


def _standard(sound: NDArray[np.float64]) -> NDArray[np.float64]:
    made: NDArray[np.float64] = (sound - sound.mean()) / np.sqrt(sound.var() + _TINY)
    return made


def _processed(
    sounds: Sequence[NDArray[np.float64]], processor: Any, rate: int, spec: InputSpec
) -> NDArray[Any]:
    """What a feature extractor makes of the sounds."""
    mono = [sound[0].astype(np.float32) for sound in sounds]
    made = processor(mono, sampling_rate=rate, return_tensors="np", padding=True)
    name = spec.name if spec.name in made else next(iter(made))
    return np.asarray(made[name], spec.dtype)


__all__ = ["SUFFIXES", "waves"]
