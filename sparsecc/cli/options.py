"""Options that commands share: where an artifact goes, the budget of a search, how it goes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Mode(StrEnum):
    """How thorough a search is."""

    fast = "fast"
    thorough = "thorough"


class Place(StrEnum):
    """Where layers are worked on."""

    processes = "processes"
    serial = "serial"
    ray = "ray"


MODEL = typer.Argument(metavar="MODEL", help="ONNX file.", show_default=False)
_NONE: dict[str, Any] = {"show_default": False}

OutFolder = Annotated[
    Path,
    typer.Option("-o", "--out", metavar="DIR", help="Folder to write the artifact to.", **_NONE),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Search for the fastest plan that loses at most this share of quality, such as 0.01.",
        **_NONE,
    ),
]
MaxMs = Annotated[
    float | None,
    typer.Option(
        metavar="MS",
        help="Search for the plan that loses least while one run is to take at most so long.",
        **_NONE,
    ),
]
MaxBytes = Annotated[
    float | None,
    typer.Option(
        metavar="BYTES",
        help="Search for the plan that loses least while its weights take at most so much.",
        **_NONE,
    ),
]
Quality = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What quality is: cosine, relative-error, top-1, psnr, or accuracy with --labels.",
        **_NONE,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="NPY", help="What the samples should give: one class number for each.", **_NONE
    ),
]
SearchMode = Annotated[
    Mode,
    typer.Option(
        "--mode", metavar="NAME", help="fast searches for minutes, thorough for much longer."
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of the search.")]
BestEffort = Annotated[
    bool,
    typer.Option(
        "--best-effort", metavar="", help="Go on with the best plan where none keeps to the budget."
    ),
]
Executor = Annotated[
    Place,
    typer.Option(
        metavar="NAME",
        help="Where layers are worked on: processes beside this one, serial in this one, or a ray "
        "cluster. The result is the same.",
    ),
]


def read_labels(path: Path | None) -> Any:
    """The labels of a file, if one was given.

    Raises:
        CalibrationError: It cannot be read.
    """
    if path is None:
        return None
    import numpy as np

    from sparsecc.errors import CalibrationError

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CalibrationError(
            f"{path} is not a readable .npy file: {error}",
            fix="write it with numpy.save(path, labels)",
        ) from error


__all__ = [
    "MODEL",
    "BestEffort",
    "Executor",
    "Labels",
    "MaxBytes",
    "MaxDrop",
    "MaxMs",
    "Mode",
    "OutFolder",
    "Place",
    "Quality",
    "SearchMode",
    "Seed",
    "read_labels",
]
