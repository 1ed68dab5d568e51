"""How pictures and sounds are made ready for a model, as a ``preprocessor_config.json`` says it.

That file lies beside most models that were published with the transformers library. Of its keys
those below count, others are left to whom they concern; ``fit`` and ``channels`` are ours.
"""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import ConfigDict, Field, model_validator

from sparsecc.errors import CalibrationError

FILE_NAME = "preprocessor_config.json"
_MOST_BYTES = 1 << 20
_MOST_SIDE = 1 << 14

Fit = Literal["crop", "stretch", "pad"]
Channels = Literal["RGB", "BGR"]
Side = Annotated[int, Field(ge=1, le=_MOST_SIDE)]
Number = Annotated[float, Field(allow_inf_nan=False)]
PerChannel = Annotated[tuple[Number, ...], Field(min_length=1, max_length=4)]


class Size(pydantic.BaseModel):
    """A size in pixels: both sides, or the shorter one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    height: Side | None = None
    width: Side | None = None
    shortest_edge: Side | None = None

    @property
    def both(self) -> tuple[int, int] | None:
        """Height and width, where both are given."""
        return None if self.height is None or self.width is None else (self.height, self.width)


class Settings(pydantic.BaseModel):
    """Settings of pictures and sounds.

    Attributes:
        image_mean: Subtracted from each channel, after the pixels were scaled.
        image_std: Divided by after that.
        rescale_factor: What pixels, 0 to 255, are multiplied by; by default 1/255.
        do_rescale: Whether they are.
        do_normalize: Whether mean and deviation are used; sounds: whether each gets mean 0 and
            deviation 1.
        size: What pictures are resized to: both sides, or the shorter one before a crop.
        crop_size: What is cut out of the middle.
        fit: ``crop`` keeps the middle, ``stretch`` changes the ratio of the sides, ``pad`` keeps
            all and fills with zeros on the right and below.
        channels: ``RGB`` or ``BGR``.
        data_format: ``channels_first`` or ``channels_last``, where the model's shape is open.
        sampling_rate: Of sounds, per second.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    image_mean: PerChannel | None = None
    image_std: PerChannel | None = None
    rescale_factor: Number = 1 / 255
    do_rescale: bool = True
    do_normalize: bool | None = None
    size: Size | None = None
    crop_size: Size | None = None
    fit: Fit = "crop"
    channels: Channels = "RGB"
    data_format: Literal["channels_first", "channels_last"] | None = None
    sampling_rate: Annotated[int, Field(ge=1000, le=768_000)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, given: Any) -> Any:
        """Sizes in the forms that files have them, and no key that is a slip of the pen."""
        if not isinstance(given, dict):
            return given
        for key in given:
            close = difflib.get_close_matches(str(key), cls.model_fields, 1, cutoff=0.9)
            if key not in cls.model_fields and close:
                raise ValueError(f"there is no key {key!r}; {close[0]!r} is one")
        sizes = {k: _size(v) for k, v in given.items() if k in ("size", "crop_size")}
        return {k: v for k, v in (given | sizes).items() if v is not None}

    @model_validator(mode="after")
    def _possible(self) -> Settings:
        if self.image_std is not None and 0 in self.image_std:
            raise ValueError("image_std holds a zero")
        return self


def _size(value: Any) -> Any:
    """``224``, ``[224, 224]`` or a mapping, as a mapping; ``shortest_edge`` for a lone number."""
    if isinstance(value, bool) or not isinstance(value, (int, list, tuple)):
        return value
    if isinstance(value, int):
        return {"shortest_edge": value}
    if len(value) != 2:
        raise ValueError("a size is a number, two, or a mapping")
    return {"height": value[0], "width": value[1]}


def settings_for(
    folder: str | os.PathLike[str], given: Settings | str | os.PathLike[str] | None
) -> Settings | str | os.PathLike[str] | None:
    """What was given, or else the file that lies in a folder of samples, if one does."""
    beside = Path(folder) / FILE_NAME
    return beside if given is None and beside.is_file() else given


def make_settings(given: Settings | str | os.PathLike[str] | None, **changes: Any) -> Settings:
    """Settings from a file or an object, with what else was said.

    Args:
        given: The settings, or a JSON file of them.
        changes: Fields of :class:`Settings` that count instead; None says nothing.

    Raises:
        CalibrationError: The file cannot be read, or a value is not possible.
    """
    known: dict[str, Any] = {}
    if isinstance(given, Settings):
        known = given.model_dump(exclude_unset=True)
    elif given is not None:
        known = _read(Path(given))
    where = "the settings" if given is None or isinstance(given, Settings) else str(given)
    try:
        said = {key: value for key, value in changes.items() if value is not None}
        return Settings.model_validate({**known, **said})
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CalibrationError(
            f"{where}: {place}: {first['msg']}" if place else f"{where}: {first['msg']}",
            fix="docs/calibration.md lists the keys and their values",
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is too large")
        read = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(read, dict):
            raise ValueError("it is not an object with keys")
    except (OSError, ValueError, RecursionError) as error:
        raise CalibrationError(
            f"{path} is not a readable settings file: {error}",
            fix=f"pass a {FILE_NAME}, as docs/calibration.md shows one",
        ) from error
    size = read.get("size")
    whole = isinstance(size, list) or (isinstance(size, dict) and "height" in size)
    if whole and not read.get("do_center_crop"):
        return {"fit": "stretch"} | read  # what such a file means where it speaks of no crop
    return read


__all__ = ["FILE_NAME", "Channels", "Fit", "Settings", "Size", "make_settings"]
