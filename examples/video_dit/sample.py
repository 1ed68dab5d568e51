"""Draws a video for a prompt; `python -m examples.video_dit.sample --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from torch import Tensor

from examples.video_dit.engines import (
    MAX_DROP,
    TITLES,
    Attention,
    Setup,
    compiled,
    drawn,
    pixels,
    prompt_of,
    velocity_of,
)
from examples.video_dit.options import (
    FRAMES,
    SIDE,
    STEPS,
    Frames,
    MaxDrop,
    Seed,
    Side,
    Steps,
    Weights,
    mistakes_said,
)
from examples.video_dit.train import WEIGHTS, trained

ZOOM, SHOWN, MILLISECONDS = 4, 8, 80
"""Pixels for one, frames in the strip, and between two frames of the GIF."""

PICTURES = WEIGHTS.with_name("sample")
EXAMPLES = """
[bold]Examples[/]

\b
A video of 9216 patches, as a strip of frames and a GIF:
  python -m examples.video_dit.sample yellow circle right
\b
The same through a compiled artifact:
  python -m examples.video_dit.sample yellow circle right --attention dense
\b
With blocks of attention that were searched on another prompt, faster or closer:
  python -m examples.video_dit.sample yellow circle right --attention static
  python -m examples.video_dit.sample yellow circle right --attention static --max-drop 0.001
"""


def strip(frames: np.ndarray) -> np.ndarray:
    """Some frames of a video [frames, height, width, 3] beside one another, first and last too."""
    shown = np.linspace(0, len(frames) - 1, min(SHOWN, len(frames))).round().astype(int)
    return np.concatenate(list(frames[shown]), axis=1)


def show(video: Tensor, output: Path) -> None:
    """Write a strip of frames (PNG) and all of them (GIF); paths are `output` with these ends."""
    large = np.kron(pixels(video), np.ones((1, ZOOM, ZOOM, 1), np.uint8))
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(strip(large)).save(output.with_suffix(".png"))
    first, *others = map(Image.fromarray, large)
    first.save(
        output.with_suffix(".gif"),
        save_all=True,
        append_images=others,
        duration=MILLISECONDS,
        loop=0,
    )


def main(
    words: Annotated[list[str], typer.Argument(help="A shape, a colour and a direction.")],
    frames: Frames = FRAMES,
    side: Side = SIDE,
    steps: Steps = STEPS,
    seed: Seed = 0,
    attention: Annotated[
        Attention | None,
        typer.Option(help="Compile the network, with all blocks of attention or some of them."),
    ] = None,
    max_drop: MaxDrop = MAX_DROP,
    weights: Weights = WEIGHTS,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Pictures, ending in .png and .gif.")
    ] = PICTURES,
) -> None:
    """Draw a video of a moving shape."""
    setup = Setup(frames, side, steps, weights)
    with mistakes_said():
        prompt = prompt_of(words)
        if attention is None:
            velocity = trained(weights)
        else:
            velocity = velocity_of(compiled(setup, attention, max_drop))
    video, seconds = drawn(TITLES[attention], velocity, prompt, setup, seed)
    typer.echo(f"{TITLES[attention]}: {steps} steps in {seconds:.1f} s")
    show(video, output)
    typer.echo(f"{output.with_suffix('.png')} and .gif")


app = typer.Typer(add_completion=False, rich_markup_mode="rich")
app.command(epilog=EXAMPLES)(main)

if __name__ == "__main__":
    app()
