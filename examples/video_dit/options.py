"""What the commands of this example are asked in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from sparsecc.errors import SparseccError

FRAMES, SIDE, STEPS = 16, 24, 20
"""Of a video, in patches: 9216; and of its sampling."""

Frames = Annotated[int, typer.Option(min=1, help="Frames of the video.")]
Side = Annotated[int, typer.Option(min=1, help="Patches across, and down.")]
Steps = Annotated[int, typer.Option(min=1, help="Denoising steps.")]
Seed = Annotated[int, typer.Option(help="Of the noise to begin with.")]
MaxDrop = Annotated[
    float,
    typer.Option(min=0.0, help="Relative error of a velocity that kept blocks may make."),
]
Weights = Annotated[Path, typer.Option(help="What examples.video_dit.train wrote.")]


@contextlib.contextmanager
def mistakes_said() -> Iterator[None]:
    """A user's mistake ends the command with what to do."""
    try:
        yield
    except (ValueError, FileNotFoundError, SparseccError) as error:
        raise typer.BadParameter(str(error)) from error
