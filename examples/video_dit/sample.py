"""Draws a video for a prompt; `python -m examples.video_dit.sample --help`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor

import sparsecc
from examples.video_dit import flow
from examples.video_dit.model import PATCH, VideoDiT
from examples.video_dit.scenes import VOCABULARY
from examples.video_dit.train import WEIGHTS, trained
from sparsecc.progress import bar
from sparsecc.quality.metrics import psnr

FRAMES, SIDE = 16, 24
"""Of a video, in patches: 9216."""

STEPS = 20
ZOOM, SHOWN, MILLISECONDS = 4, 8, 80
"""Pixels for one, frames in the strip, and between two frames of the GIF."""

PICTURES = WEIGHTS.with_name("sample")
EXAMPLES = """
[bold]Examples[/]

\b
A video of 9216 patches, as a strip of frames and a GIF:
  python -m examples.video_dit.sample yellow circle right
\b
The same through a compiled artifact, compared with torch:
  python -m examples.video_dit.sample yellow circle right --compiled
"""


def prompt_of(words: list[str]) -> Tensor:
    """Numbers of the words of a prompt [1, 3], whatever their order.

    Raises:
        ValueError: A word is unknown, missing or given twice.
    """
    numbers = []
    for known in VOCABULARY:
        found = [word for word in words if word in known]
        if len(found) != 1:
            raise ValueError(f"one word of {', '.join(known)} is needed, not {len(found)}")
        numbers.append(known.index(found[0]))
    if len(words) != len(VOCABULARY):
        unknown = set(words) - {word for known in VOCABULARY for word in known}
        raise ValueError(f"no such words: {', '.join(sorted(unknown))}")
    return torch.tensor([numbers])


def compiled_velocity(model: VideoDiT, size: tuple[int, int, int]) -> flow.Velocity:
    """The network as sparsecc compiles it for this machine and videos [1, 3, *size]."""
    example = torch.zeros(1, 3, *size), torch.ones(1), torch.zeros(1, len(VOCABULARY), dtype=int)
    compiled = sparsecc.compile(model, example_inputs=example, dynamic_shapes=({}, {}, {}))

    def velocity(video: Tensor, time: Tensor, prompt: Tensor) -> Tensor:
        result: Tensor = compiled(video=video, time=time, prompt=prompt)
        return result

    return velocity


def pixels(video: Tensor) -> np.ndarray:
    """Frames [frames, height, width, 3] of a video [3, frames, height, width], 0 to 255."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()


def show(video: Tensor, output: Path) -> None:
    """Write a strip of frames (PNG) and all of them (GIF); paths are `output` with these ends."""
    large = np.kron(pixels(video), np.ones((1, ZOOM, ZOOM, 1), np.uint8))
    output.parent.mkdir(parents=True, exist_ok=True)
    strip = large[np.linspace(0, len(large) - 1, min(SHOWN, len(large))).round().astype(int)]
    Image.fromarray(np.concatenate(list(strip), axis=1)).save(output.with_suffix(".png"))
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
    frames: Annotated[int, typer.Option(min=1, help="Frames of the video.")] = FRAMES,
    side: Annotated[int, typer.Option(min=1, help="Patches across, and down.")] = SIDE,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = STEPS,
    seed: Annotated[int, typer.Option(help="Of the noise to begin with.")] = 0,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Compile the network; torch is sampled beside.")
    ] = False,
    weights: Annotated[Path, typer.Option(help="What examples.video_dit.train wrote.")] = WEIGHTS,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Pictures, ending in .png and .gif.")
    ] = PICTURES,
) -> None:
    """Draw a video of a moving shape."""
    try:
        prompt, model = prompt_of(words), trained(weights)
    except (ValueError, FileNotFoundError) as error:
        raise typer.BadParameter(str(error)) from error
    size = frames, side * PATCH, side * PATCH
    engines: dict[str, flow.Velocity] = {"torch": model}
    if compiled:
        engines["compiled"] = compiled_velocity(model, size)
    videos = {}
    for name, velocity in engines.items():
        begun, chance = time.perf_counter(), torch.Generator().manual_seed(seed)
        with bar(f"sampling, {name}") as progress, torch.inference_mode():
            videos[name] = flow.sample(
                velocity,
                prompt,
                size,
                steps,
                chance,
                lambda done, progress=progress: progress("denoising", done / steps),
            )[0]
        typer.echo(f"{name}: {steps} steps in {time.perf_counter() - begun:.1f} s")
    if compiled:
        typer.echo(
            f"PSNR of the two: {psnr(pixels(videos['torch']), pixels(videos['compiled'])):.1f} dB"
        )
    show(next(reversed(videos.values())), output)
    typer.echo(f"{output.with_suffix('.png')} and .gif")


app = typer.Typer(add_completion=False, rich_markup_mode="rich")
app.command(epilog=EXAMPLES)(main)

if __name__ == "__main__":
    app()
