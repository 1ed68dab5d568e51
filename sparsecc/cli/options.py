"""Options that commands share: where an artifact goes, the budget of a search, how it goes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sparsecc.quality.samples import Samples


class Mode(StrEnum):
    """How thorough a search is."""

    fast = "fast"
    thorough = "thorough"


class Makes(StrEnum):
    """What a compiled model is."""

    onnxruntime = "onnxruntime"
    bundle = "bundle"
    tvm = "tvm"


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
_CALIBRATION = typer.Option(
    metavar="PATH",
    help="Typical inputs: an .npz file with one array per input of the model, a folder of "
    "pictures, sounds or numpy files, a .txt file with a sample a line, or generated to make "
    "them up.",
    **_NONE,
)
Calibration = Annotated[Path | None, _CALIBRATION]
NeededCalibration = Annotated[Path, _CALIBRATION]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="tokenizer.json for --calibration of text; by default the one beside it.",
        **_NONE,
    ),
]
Preprocess = Annotated[
    Path | None,
    typer.Option(
        metavar="JSON",
        help="How pictures and sounds are made ready: a preprocessor_config.json; by default the "
        "one among them.",
        **_NONE,
    ),
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
Recover = Annotated[
    str | None,
    typer.Option(
        metavar="EFFORT",
        help="Train the weights that stay, so long (10min) or so much (400 steps): the dense "
        "model teaches on --calibration, no labels needed. Needs torch.",
        **_NONE,
    ),
]
Tune = Annotated[
    str | None,
    typer.Option(
        metavar="EFFORT",
        help="Time schedules of the code that TVM generates, so long (5min) or so many of each "
        "function (64 steps); or the tuning.json of an artifact, to take its schedules.",
        **_NONE,
    ),
]
Permute = Annotated[
    bool,
    typer.Option(
        "--permute",
        metavar="",
        help="First put channels into the order under which blocks of zeros lose least.",
    ),
]
Attention = Annotated[
    str | None,
    typer.Option(
        metavar="GRID",
        help="The tokens of a video transformer, frames x height x width as attention sees them "
        "and words before or behind: 16x24x24, 8+16x24x24 or 16x24x24+8; auto where one grid "
        "fits. Each head then keeps the blocks of its scores that matter on --calibration.",
        show_default=False,
    ),
]
Online = Annotated[
    str | None,
    typer.Option(
        metavar="STEPS[:SHARE]",
        help="With --attention: steps of one sampling, and the share of blocks left out if not "
        "0.8. Attentions whose blocks move with the input, all without --calibration, search for "
        "them while the model runs.",
        show_default=False,
    ),
]
Experts = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE",
        help="Split feed-forward networks behind ReLU into experts; a token goes through this "
        "share of them, such as 0.25, or auto: as few as --max-drop allows. Their router learns "
        "from --calibration.",
        show_default=False,
    ),
]
KeepExperts = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE",
        help="Share of its experts that every mixture of experts keeps, such as 0.75, or auto for "
        "the fewest within --max-drop: what --calibration hardly needs is left out or merged.",
        show_default=False,
    ),
]
Backend = Annotated[
    Makes | None,
    typer.Option(
        metavar="NAME",
        help="What comes out: onnxruntime, an ONNX file and a library of its ops; bundle, a "
        "library that needs no runtime; tvm, a library for TVM's. By default what the target is "
        "for: bundle on the web, else onnxruntime.",
        **_NONE,
    ),
]
LibraryName = Annotated[
    str,
    typer.Option(
        "--name",
        metavar="NAME",
        help="What functions and files of a library without a runtime begin with.",
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


def read_calibration(
    calibration: Path | None, tokenizer: Path | None, preprocess: Path | None
) -> Samples | None:
    """The calibration data that were asked for, still to be read.

    Raises:
        CalibrationError: There is no such thing, or an option does not go with it.
    """
    if calibration is None:
        given = next((each for each in (tokenizer, preprocess) if each is not None), None)
        if given is None:
            return None
        from sparsecc.errors import CalibrationError

        raise CalibrationError(
            f"{given} is for calibration data, and there are none", fix="give --calibration"
        )
    from sparsecc.quality.samples import open_source

    return open_source(calibration, tokenizer=tokenizer, preprocess=preprocess)


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
    "Attention",
    "Backend",
    "BestEffort",
    "Calibration",
    "Executor",
    "Labels",
    "LibraryName",
    "Makes",
    "MaxBytes",
    "MaxDrop",
    "MaxMs",
    "Mode",
    "NeededCalibration",
    "Online",
    "OutFolder",
    "Permute",
    "Place",
    "Preprocess",
    "Quality",
    "Recover",
    "SearchMode",
    "Seed",
    "Tokenizer",
    "Tune",
    "read_calibration",
    "read_labels",
]
