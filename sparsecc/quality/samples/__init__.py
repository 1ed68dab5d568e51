"""Sample inputs of a model from what people have: pictures, text, sounds, arrays, or nothing.

Each function says where the samples are and how to make them ready; they are read once the model is
known, which says what its inputs must be. Pass the result as ``calibration``:

>>> from sparsecc.quality import samples
>>> photos = samples.images("photos", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
>>> sparsecc.compile("model.onnx", sparsity="4x1:0.5", calibration=photos)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsecc.errors import CalibrationError
from sparsecc.progress import Progress, silent
from sparsecc.quality.example_inputs import input_specs
from sparsecc.quality.samples import numpy_files, pictures, sounds
from sparsecc.quality.samples.base import Samples, files
from sparsecc.quality.samples.made_up import WORD, generated
from sparsecc.quality.samples.numpy_files import arrays, one_array, read_npz
from sparsecc.quality.samples.pictures import images
from sparsecc.quality.samples.sounds import waves
from sparsecc.quality.samples.text import TOKENIZER, texts

PLACES = "a folder of pictures, sounds or numpy files, a .txt, .npz or .npy file, or `generated`"


def open_source(
    source: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    preprocess: str | os.PathLike[str] | None = None,
) -> Samples:
    """Samples of a place on disk, by what is there; ``generated`` makes them up.

    Args:
        source: A folder of pictures, sounds or numpy files, or a file of text or arrays.
        tokenizer: For text; by default the ``tokenizer.json`` beside it.
        preprocess: For pictures and sounds; by default the ``preprocessor_config.json`` among them.

    Raises:
        CalibrationError: There is no such thing, or it is not clear what it is.
    """
    path = Path(source)
    if str(source) == WORD:
        _refuse(tokenizer, preprocess)
        return generated()
    if path.is_dir():
        return _of_folder(path, tokenizer, preprocess)
    suffix = path.suffix.lower()
    if suffix == ".txt":
        beside = path.with_name(TOKENIZER)
        if tokenizer is None and not beside.is_file():
            raise CalibrationError(
                f"{path} needs a tokenizer, and there is no {beside}",
                fix=f"give the model's {TOKENIZER}: samples.texts(file, tokenizer) or --tokenizer",
            )
        _refuse(None, preprocess)
        return texts(path, tokenizer or beside)
    _refuse(tokenizer, preprocess)
    if suffix == ".npy":
        return Samples(lambda model, progress: one_array(path, input_specs(model)))
    if suffix == ".npz" or path.is_file():
        return Samples(lambda model, progress: read_npz(path))
    raise CalibrationError(f"{path} is not there", fix=f"pass {PLACES}")


def read_source(source: Any, model: ir.Model, progress: Progress = silent) -> Any:
    """Calibration data as arrays: places and recipes are read, all else is returned as it is.

    Raises:
        CalibrationError: They cannot be read, or do not cover an input.
    """
    if isinstance(source, (str, os.PathLike)):
        source = open_source(source)
    return source.of(model, progress) if isinstance(source, Samples) else source


def _refuse(tokenizer: object, preprocess: object = None) -> None:
    """Raises CalibrationError where one was given to data that need none."""
    for given, what in ((tokenizer, "tokenizer"), (preprocess, "settings of pictures and sounds")):
        if given is not None:
            raise CalibrationError(
                f"{given}: there is a {what}, but the calibration data need none",
                fix="leave it out",
            )


def _of_folder(folder: Path, tokenizer: object, preprocess: Any) -> Samples:
    """Samples of a folder, by the one kind of file in it."""
    kinds = {
        "pictures": pictures.SUFFIXES,
        "sounds": sounds.SUFFIXES,
        "numpy files": numpy_files.SUFFIXES,
    }
    everything = tuple(suffix for suffixes in kinds.values() for suffix in suffixes)
    found = {path.suffix.lower() for path in files(folder, everything, "calibration data")}
    there = [kind for kind, suffixes in kinds.items() if found & set(suffixes)]
    if len(there) > 1:
        raise CalibrationError(
            f"{folder} holds {' and '.join(there)}", fix="pass a folder with one kind of file"
        )
    if there == ["numpy files"]:
        _refuse(tokenizer, preprocess)
        return arrays(folder)
    _refuse(tokenizer)
    if there == ["sounds"]:
        return waves(folder, settings=preprocess)
    return images(folder, settings=preprocess)


__all__ = [
    "Samples",
    "arrays",
    "generated",
    "images",
    "open_source",
    "read_source",
    "texts",
    "waves",
]
