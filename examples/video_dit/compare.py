"""Draws videos in every way and compares; `python -m examples.video_dit.compare --help`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

import sparsecc
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
from examples.video_dit.model import VideoDiT
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
from examples.video_dit.sample import strip
from examples.video_dit.train import WEIGHTS, trained
from sparsecc.passes.attention.modes import Grid
from sparsecc.passes.attention.online import time_share
from sparsecc.quality.metrics import psnr

PROMPTS = ("yellow circle right", "red square left")
DENSE = TITLES[Attention.DENSE]
OUTPUT = WEIGHTS.with_name("compare")
ZOOM, NAME, LETTERS = 2, 120, 13
"""Pixels for one in the picture, those of the column of names, and the height of its letters."""

EXAMPLES = """
[bold]Examples[/]

\\b
Two prompts in every way, as tables, pictures and JSON:
  python -m examples.video_dit.compare
\\b
A prompt of your own and other noise, without waiting for torch:
  python -m examples.video_dit.compare "magenta triangle down" --seed 3 --no-torch
"""


@dataclass(frozen=True)
class Way:
    """How one video was drawn.

    Attributes:
        name: How it is called.
        seconds: Of all steps.
        kept: Share of attention's arithmetic that was done.
        psnr: Against the dense artifact's video, dB; infinite where they are the same.
        frames: [frames, height, width, 3], 0 to 255.
    """

    name: str
    seconds: float
    kept: float
    psnr: float
    frames: np.ndarray

    @property
    def distance(self) -> str:
        """The PSNR as tables say it."""
        return "–" if np.isinf(self.psnr) else f"{self.psnr:.1f}"

    @property
    def figures(self) -> dict[str, str | float | None]:
        """What JSON can hold."""
        found = {"name": self.name, "seconds": self.seconds, "attention_kept": self.kept}
        return found | {"psnr_db": None if np.isinf(self.psnr) else self.psnr}


def share_kept(model: sparsecc.Compiled | VideoDiT) -> float:
    """Share of the arithmetic of attention that is done, that of searches with it."""
    plans = [] if isinstance(model, VideoDiT) else model.plan.attention
    shares = [
        time_share(each.online, Grid.parse(each.grid))
        if each.online
        else mean(head.density for head in each.heads)
        for each in plans
    ]
    return mean(shares) if shares else 1.0


def ways(
    prompt: str, models: Mapping[str, sparsecc.Compiled | VideoDiT], setup: Setup, seed: int
) -> list[Way]:
    """A video drawn by each model; :data:`DENSE` is what others are compared with."""
    drew = [
        drawn(name, velocity_of(each), prompt_of(prompt.split()), setup, seed)
        for name, each in models.items()
    ]
    frames = dict(zip(models, (pixels(video) for video, _ in drew), strict=True))
    return [
        Way(
            name, seconds, share_kept(models[name]), psnr(frames[DENSE], frames[name]), frames[name]
        )
        for name, (_, seconds) in zip(models, drew, strict=True)
    ]


def table_of(title: str, made: Sequence[Way]) -> Table:
    """A row for each way, with its speed against the dense artifact and against torch."""
    by_name = {way.name: way.seconds for way in made}
    against = [name for name in (DENSE, TITLES[None]) if name in by_name]
    table = Table("", title=title)
    for column in ("seconds", *(f"× {name}" for name in against), "PSNR, dB", "attention"):
        table.add_column(column, justify="right")
    for way in made:
        speeds = [f"{by_name[name] / way.seconds:.2f}" for name in against]
        table.add_row(way.name, f"{way.seconds:.1f}", *speeds, way.distance, f"{way.kept:.1%}")
    return table


def picture_of(made: Sequence[Way]) -> Image.Image:
    """A row of frames for each way, with its name, its time and its PSNR in front."""
    rows = []
    for way in made:
        frames = strip(np.kron(way.frames, np.ones((1, ZOOM, ZOOM, 1), np.uint8)))
        front = Image.new("RGB", (NAME, len(frames)), "white")
        said = [
            way.name,
            f"{way.seconds:.1f} s",
            *([f"{way.psnr:.1f} dB"] * bool(np.isfinite(way.psnr))),
        ]
        ImageDraw.Draw(front).text(
            (4, 4), "\n".join(said), "black", ImageFont.load_default(LETTERS)
        )
        rows.append(np.concatenate([np.asarray(front), frames], axis=1))
    return Image.fromarray(np.concatenate(rows))


def main(
    prompts: Annotated[
        list[str] | None, typer.Argument(help="Each a shape, a colour and a direction, in quotes.")
    ] = None,
    frames: Frames = FRAMES,
    side: Side = SIDE,
    steps: Steps = STEPS,
    seed: Seed = 0,
    max_drop: MaxDrop = MAX_DROP,
    torch: Annotated[bool, typer.Option(help="Draw in torch too, which takes longest.")] = True,
    weights: Weights = WEIGHTS,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of a picture per prompt and of JSON.")
    ] = OUTPUT,
) -> None:
    """Draw the same videos with torch, the dense artifact and blocks of attention, and compare.

    Blocks are searched on a sampling of another prompt. PSNR is against the dense artifact.
    """
    setup, console, found = Setup(frames, side, steps, weights), Console(), {}
    with mistakes_said():
        asked = {prompt: prompt_of(prompt.split()) for prompt in prompts or PROMPTS}
        models: dict[str, sparsecc.Compiled | VideoDiT] = {}
        if torch:
            models[TITLES[None]] = trained(weights)
        models |= {TITLES[each]: compiled(setup, each, max_drop) for each in Attention}
    output.mkdir(parents=True, exist_ok=True)
    for prompt in asked:
        made = ways(prompt, models, setup, seed)
        console.print(table_of(f"{prompt}, seed {seed}, {steps} steps", made))
        name = f"{prompt.replace(' ', '-')}-{seed}"
        picture_of(made).save(output / f"{name}.png", optimize=True)
        found[name] = [way.figures for way in made]
    (output / "compare.json").write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"pictures and compare.json: {output}/")


app = typer.Typer(add_completion=False, rich_markup_mode="rich")
app.command(epilog=EXAMPLES)(main)

if __name__ == "__main__":
    app()
