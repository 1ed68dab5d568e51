"""What sample inputs are before the model is known, and what all readers of files share."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import CalibrationError
from sparsecc.progress import Progress, silent
from sparsecc.quality.example_inputs import InputSpec, input_specs

Feed = dict[str, NDArray[Any]]
"""One batch: input name → array."""

T = TypeVar("T")

LIMIT = 512
"""Samples that are read where the user gives no number: more hardly change what is learned."""
BATCH = 16
_MOST_BYTES = 1 << 31
_MOST_FILES = 1 << 18


@dataclasses.dataclass(frozen=True)
class Batches:
    """Samples cut into batches, because not all are of one shape.

    Attributes:
        feeds: The batches.
        order: For every sample of the batches, one after another, its number in the source;
            empty where the source has no order.
    """

    feeds: tuple[Feed, ...]
    order: NDArray[np.intp]


Drawn = Mapping[str, NDArray[Any]] | Batches
"""All samples along axis 0 of each array, or batches."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """Sample inputs that are read when the model is known: the model says what they must be.

    Attributes:
        of: What reads them, given the model and whom to tell of progress.
    """

    of: Callable[[ir.Model, Progress], Drawn]

    def read(self, model: ir.Model | str | os.PathLike[str], progress: Progress = silent) -> Drawn:
        """The samples, as a model takes them.

        Args:
            model: The model, or the path of its ONNX file.
            progress: Called with what is being done and the share done.

        Raises:
            CalibrationError: A file cannot be read, or the samples do not cover an input.
            ModelError: The model cannot be read.
        """
        loaded = model if isinstance(model, ir.Model) else ir.load(model)
        return self.of(loaded, progress)


def files(folder: str | os.PathLike[str], suffixes: Sequence[str], what: str) -> list[Path]:
    """The files of a folder and the folders in it that have one of these suffixes, by name.

    Hidden files are left out, and no link is followed out of the folder.

    Args:
        folder: Where.
        suffixes: In lower case, with the dot.
        what: What they are, for the error.

    Raises:
        CalibrationError: There is no such folder, it has no such files or far too many, or a link
            leads out of it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CalibrationError(f"{root} is not a folder", fix=f"pass a folder of {what}")
    listed = list(itertools.islice(root.rglob("*"), _MOST_FILES + 1))
    if len(listed) > _MOST_FILES:
        raise CalibrationError(
            f"{root} holds more than {_MOST_FILES} files", fix="pass a folder of some hundred"
        )
    found = sorted(
        path
        for path in listed
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    )
    if not found:
        raise CalibrationError(
            f"{root} holds no {what} ({', '.join(suffixes)})",
            fix=f"pass a folder of {what}, some hundred of them",
        )
    inside = root.resolve()
    for path in found:
        if not path.resolve().is_relative_to(inside):
            raise CalibrationError(
                f"{path} is a link that leads out of {root}", fix="copy the file into the folder"
            )
    return found


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, evenly from first to last."""
    if len(items) <= most:
        return list(items)
    return [items[at * len(items) // most] for at in range(most)]


def affordable(limit: int, shape: Sequence[int]) -> int:
    """How many samples of a shape are read: the limit, or what fits into memory."""
    check_limit(limit)
    return max(1, min(limit, _MOST_BYTES // (4 * max(1, int(np.prod(shape))))))


def check_limit(limit: int) -> None:
    """Raises CalibrationError where no sample is asked for."""
    if limit < 1:
        raise CalibrationError(f"{limit} samples are asked for", fix="ask for at least one")


def only_input(
    model: ir.Model, suits: Callable[[InputSpec], bool], what: str, example: str
) -> InputSpec:
    """The one input of a model that files of a kind can be for.

    Args:
        model: The model.
        suits: Whether they can be for an input.
        what: What the files are.
        example: What an input for them looks like.

    Raises:
        CalibrationError: None suits, or there are inputs besides that get nothing.
    """
    specs = input_specs(model)
    found = next((spec for spec in specs if suits(spec)), None)
    if found is None:
        raise CalibrationError(
            f"no input of the model takes {what}: it has {', '.join(map(str, specs)) or 'none'}, "
            f"and {what} go into one like {example}",
            fix="write what the model takes into an .npz file, one array per input",
        )
    rest = [spec for spec in specs if spec is not found]
    if rest:
        raise uncovered(rest[0], what)
    return found


def uncovered(spec: InputSpec, what: str) -> CalibrationError:
    """The error of an input that gets nothing from the samples."""
    return CalibrationError(
        f"{what} do not cover the input {spec}",
        fix="add its values to what sparsecc.quality.samples reads (read(model) gives arrays), or "
        "write an .npz file with one array per input",
    )


def needed(module: str, what: str, extra: str) -> Any:
    """A package that only some users need.

    Raises:
        CalibrationError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise CalibrationError(
            f"{what} need the package {package}, which cannot be imported: {error}",
            fix=f"pip install 'sparsecc[{extra}]'",
        ) from error


def unreadable(path: Path, what: str, error: object) -> CalibrationError:
    """The error of a file that is damaged or something else."""
    return CalibrationError(
        f"{path} is not a readable {what}: {error}", fix="mend the file or take it out of there"
    )


__all__ = [
    "BATCH",
    "LIMIT",
    "Batches",
    "Drawn",
    "Feed",
    "Samples",
    "affordable",
    "check_limit",
    "files",
    "needed",
    "only_input",
    "spread",
    "uncovered",
    "unreadable",
]
