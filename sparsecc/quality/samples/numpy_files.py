"""Folders of numpy files as inputs of a model."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import CalibrationError
from sparsecc.progress import Progress
from sparsecc.quality.example_inputs import InputSpec, input_specs
from sparsecc.quality.samples.base import (
    LIMIT,
    Batches,
    Drawn,
    Feed,
    Samples,
    check_limit,
    files,
    spread,
    unreadable,
)

SUFFIXES = (".npz", ".npy")


def arrays(folder: str | os.PathLike[str], *, limit: int = LIMIT) -> Samples:
    """Numpy files of a folder: each holds a sample or a batch, an .npz an array for every input.

    An array of the input's rank is a batch, one of a rank less is a sample; .npy files are for
    models of one input.

    Args:
        folder: Where they are, folders in it included.
        limit: How many files at most; of more, every so many-th.

    Raises:
        CalibrationError: When the samples are read: a file is damaged or lacks an input; names it.
    """

    def of(model: ir.Model, progress: Progress) -> Drawn:
        specs = input_specs(model)
        paths = spread(files(folder, SUFFIXES, "numpy files"), limit)
        feeds = []
        for at, path in enumerate(paths):
            progress("reading arrays", at / len(paths))
            feeds.append(_feed(path, specs))
        return _joined(feeds, specs)

    check_limit(limit)
    return Samples(of)


def read_npy(path: Path) -> NDArray[Any]:
    """The array of an .npy file (CalibrationError if it cannot be read)."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            raise ValueError("it holds several arrays")
        return loaded
    except Exception as error:  # headers are parsed as Python, which raises what it likes
        raise unreadable(path, ".npy file", error) from error


def read_npz(path: Path) -> Feed:
    """Arrays of an .npz file by name (CalibrationError if it cannot be read)."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("it holds one bare array")
        with loaded as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zip files and headers of arrays raise what they like
        raise CalibrationError(
            f"{path} is not a readable .npz file: {error}",
            fix="write it with numpy.savez(path, input_name=array, …), samples along axis 0",
        ) from error


def one_array(path: Path, specs: Sequence[InputSpec]) -> Feed:
    """The array of an .npy file, for the only input of a model.

    Raises:
        CalibrationError: It cannot be read, or the model has more inputs.
    """
    if len(specs) != 1:
        raise CalibrationError(
            f"{path} is one array, the model has the inputs {', '.join(s.name for s in specs)}",
            fix="write an .npz file: numpy.savez(path, input_name=array, …)",
        )
    return {specs[0].name: read_npy(path)}


def _feed(path: Path, specs: Sequence[InputSpec]) -> Feed:
    """The arrays of one file, each with the batch axis first."""
    found = one_array(path, specs) if path.suffix.lower() == ".npy" else read_npz(path)
    if missing := [spec.name for spec in specs if spec.name not in found]:
        raise CalibrationError(
            f"{path} lacks the input {missing[0]!r}",
            fix=f"write arrays named {', '.join(spec.name for spec in specs)} into each file",
        )
    return {spec.name: _batch(found[spec.name], spec) for spec in specs}


def _batch(array: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    return array[None] if array.ndim == len(spec.dims) - 1 else array


def _joined(feeds: Sequence[Feed], specs: Sequence[InputSpec]) -> Drawn:
    """All samples together, where they are of one shape, else in the batches that they came in."""
    shapes = {tuple((feed[s.name].shape[1:], feed[s.name].dtype) for s in specs) for feed in feeds}
    if len(shapes) == 1 and all(spec.dims for spec in specs):
        return {spec.name: np.concatenate([feed[spec.name] for feed in feeds]) for spec in specs}
    return Batches(tuple(feeds), np.arange(sum(map(_count, feeds))))


def _count(feed: Mapping[str, NDArray[Any]]) -> int:
    return max(itertools.chain((len(a) for a in feed.values() if a.ndim), (0,))) or 1


__all__ = ["SUFFIXES", "arrays", "one_array", "read_npy", "read_npz"]
