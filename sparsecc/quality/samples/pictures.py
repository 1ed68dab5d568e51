"""Pictures as inputs of a model: resized, cut to its size, scaled, in its layout."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    needed,
    only_input,
    spread,
    unreadable,
)
from sparsecc.quality.samples.settings import (
    Channels,
    Fit,
    Settings,
    make_settings,
    settings_for,
)

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_MOST_PIXELS = 1 << 26
"""A file of a few kilobytes can say that it is a picture of gigabytes."""


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a picture goes.

    Attributes:
        channels: How many there are.
        last: Whether they are the last axis.
        height: In pixels.
        width: In pixels.
    """

    channels: int
    last: bool
    height: int
    width: int


def images(
    folder: str | os.PathLike[str],
    *,
    settings: Settings | str | os.PathLike[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: float | None = None,
    channels: Channels | None = None,
    fit: Fit | None = None,
    size: tuple[int, int] | None = None,
    processor: Any = None,
    limit: int = LIMIT,
) -> Samples:
    """Pictures of a folder (png, jpg, webp, bmp), as the one input of a model.

    A pixel becomes (pixel · scale − mean) / std; where the model takes bytes it stays as it is. An
    input of one channel gets grey. Of more files than the limit every so many-th is read.

    Args:
        folder: Where they are, folders in it included.
        settings: A ``preprocessor_config.json`` or an object of such settings; by default the
            file of that name in the folder, if there is one.
        mean: Of each channel, after scaling; by default the settings', else 0.
        std: Deviation of each channel, likewise; else 1.
        scale: By default the settings', else 1/255.
        channels: ``RGB`` or ``BGR``.
        fit: ``crop`` cuts the middle out, ``stretch`` changes the ratio of the sides, ``pad`` fills
            with zeros on the right and below.
        size: Height and width, where the model leaves them open.
        processor: An image processor of the transformers library, which then does it all.
        limit: How many at most.

    Raises:
        CalibrationError: When the samples are read: a file is no picture or too large, or the model
            takes no pictures; names it.
    """

    def of(model: ir.Model, progress: Progress) -> Feed:
        spec = only_input(model, _is_picture, "pictures", "float32[N, 3, height, width]")
        found = files(folder, SUFFIXES, "pictures")
        chosen = make_settings(
            settings_for(folder, settings),
            image_mean=mean,
            image_std=std,
            rescale_factor=scale,
            channels=channels,
            fit=fit,
            size=size,
        )
        if processor is not None:
            return {spec.name: _processed(found, processor, spec, limit, progress)}
        return {spec.name: _prepared(found, spec, chosen, limit, progress)}

    return Samples(of)


def _is_picture(spec: InputSpec) -> bool:
    return len(spec.dims) == 4 and (spec.dtype.kind == "f" or spec.dtype == np.uint8)


def _prepared(
    found: Sequence[Path], spec: InputSpec, settings: Settings, limit: int, progress: Progress
) -> NDArray[Any]:
    if spec.dtype == np.uint8:  # the model scales them itself
        settings = settings.model_copy(update={"do_rescale": False, "do_normalize": False})
    place = _place(spec, settings)
    shape = (place.height, place.width, place.channels)
    paths = spread(found, affordable(limit, shape))
    pixels = np.empty((len(paths), *shape), spec.dtype)
    for at, path in enumerate(paths):
        progress("reading pictures", at / len(paths))
        pixels[at] = _normal(_fitted(_open(path, place.channels), place, settings), place, settings)
    if place.last:
        return pixels
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _place(spec: InputSpec, settings: Settings) -> _Place:
    """Where pictures go in an input.

    Raises:
        CalibrationError: Its channels are not those of pictures, or its size is not known.
    """
    at_end = _channels_last(spec, settings)
    _, first, _, last = spec.dims
    count = last if at_end else first
    if isinstance(count, int) and count not in _MODES:
        raise CalibrationError(
            f"the input {spec} has {count} channels, a picture has 1, 3 or 4",
            fix="write what the model takes into an .npz file, one array per input",
        )
    sides = spec.dims[1:3] if at_end else spec.dims[2:4]
    wanted = [settings.crop_size, settings.size] if settings.fit == "crop" else [settings.size]
    both = next((each.both for each in wanted if each and each.both), None)
    height, width = (
        side if isinstance(side, int) else both[axis] if both else 0
        for axis, side in enumerate(sides)
    )
    if not (height and width):
        raise CalibrationError(
            f"the input {spec} leaves open how large its pictures are",
            fix='give size (height, width), or "size": {"height": …, "width": …} in the settings',
        )
    return _Place(count if isinstance(count, int) else 3, at_end, height, width)


def _channels_last(spec: InputSpec, settings: Settings) -> bool:
    _, first, _, last = spec.dims
    if (first in _MODES) != (last in _MODES):
        return last in _MODES
    return settings.data_format == "channels_last"


def _open(path: Path, channels: int) -> Image:
    """A picture in the mode of so many channels."""
    image = needed("PIL.Image", "pictures", "images")
    transpose = needed("PIL.ImageOps", "pictures", "images").exif_transpose
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with image.open(path, formats=_FORMATS) as opened:
                if opened.width * opened.height > _MOST_PIXELS:
                    raise ValueError(f"it has {opened.width} x {opened.height} pixels")
                if opened.mode.startswith("I"):  # sixteen bits, of which converting keeps the lower
                    high = np.asarray(opened, np.float64) / 257
                    opened = image.fromarray(np.clip(high.round(), 0, 255).astype(np.uint8))
                made: Image = transpose(opened).convert(_MODES[channels])
                return made
    except Exception as error:  # decoders raise what they like on foreign bytes
        raise unreadable(path, "picture", error) from error


def _fitted(picture: Image, place: _Place, settings: Settings) -> NDArray[np.uint8]:
    """A picture as [at most height, at most width, channels]."""
    resampling = needed("PIL.Image", "pictures", "images").Resampling.BILINEAR
    goal = (place.width, place.height)
    box: tuple[float, float, float, float] | None = None
    if settings.fit == "pad":
        ratio = min(place.width / picture.width, place.height / picture.height)
        goal = (
            min(place.width, max(1, round(picture.width * ratio))),
            min(place.height, max(1, round(picture.height * ratio))),
        )
    elif settings.fit == "crop":
        box = _middle(picture, place, settings)
    made = np.asarray(picture.resize(goal, resampling, box))
    return made.reshape(*made.shape[:2], place.channels)


def _middle(picture: Image, place: _Place, settings: Settings) -> tuple[float, float, float, float]:
    """The part of a picture that is kept: as large as it can be, or less as the settings say.

    Resizing the shorter side to 256 and cutting 224 out is keeping 224/256 of the picture.
    """
    ratio = min(picture.width / place.width, picture.height / place.height)
    shorter = settings.size.shortest_edge if settings.size else None
    if shorter is not None and shorter > max(place.width, place.height):
        ratio = min(ratio, min(picture.size) / shorter)
    width, height = place.width * ratio, place.height * ratio
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    return left, top, left + width, top + height


def _normal(pixels: NDArray[np.uint8], place: _Place, settings: Settings) -> NDArray[Any]:
    """Pixels [h, w, C] as numbers of the model, on a canvas [height, width, C]."""
    if settings.channels == "BGR" and place.channels > 1:
        pixels = pixels[:, :, [2, 1, 0, *range(3, place.channels)]]
    values = pixels.astype(np.float64) * (settings.rescale_factor if settings.do_rescale else 1.0)
    if settings.do_normalize is not False:
        values = (values - _each(settings.image_mean, 0.0, place)) / _each(
            settings.image_std, 1.0, place
        )
    canvas = np.zeros((place.height, place.width, place.channels))
    canvas[: values.shape[0], : values.shape[1]] = values
    return canvas


def _each(given: Sequence[float] | None, default: float, place: _Place) -> NDArray[np.float64]:
    values = [default] if given is None else given
    if len(values) not in (1, place.channels):
        raise CalibrationError(
            f"mean and std have {len(values)} numbers, the model takes {place.channels} channels",
            fix="give one number, or one for each channel",
        )
    return np.asarray(values, np.float64)


def _processed(
    found: Sequence[Path], processor: Any, spec: InputSpec, limit: int, progress: Progress
) -> NDArray[Any]:
    """Pictures through a processor of the transformers library."""
    made: list[NDArray[Any]] = []
    paths = spread(found, affordable(limit, [d if isinstance(d, int) else 1 for d in spec.dims]))
    for at, path in enumerate(paths):
        progress("reading pictures", at / len(paths))
        done = processor(images=[_open(path, 3)], return_tensors="np")
        made.append(np.asarray(done["pixel_values"], spec.dtype))
    return np.concatenate(made)


__all__ = ["SUFFIXES", "images"]
