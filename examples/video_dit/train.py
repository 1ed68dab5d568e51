"""Trains the network on moving shapes; `python -m examples.video_dit.train --help`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor

from examples._optimisers import Optimisers, descend, optimisers_of
from examples.video_dit import flow
from examples.video_dit.model import PATCH, VideoDiT
from examples.video_dit.scenes import draw, render
from sparsecc.aside import aside
from sparsecc.progress import bar

WEIGHTS = Path("out/video_dit/weights.safetensors")
EXAMPLES = """
[bold]Examples[/]

\b
Train, or go on where an earlier run was stopped:
  python -m examples.video_dit.train
\b
Somewhere else:
  python -m examples.video_dit.train -o /tmp/weights.safetensors
"""


@dataclass(frozen=True)
class Stage:
    """Steps on videos of random sizes, all of a step alike.

    Attributes:
        steps: How many.
        tokens: Patches of a step, over all its videos; at least one video is taken.
        frames: The fewest and the most.
        side: The fewest and the most patches down, and across.
    """

    steps: int
    tokens: int
    frames: tuple[int, int]
    side: tuple[int, int]


STAGES = (
    Stage(900, 3072, frames=(2, 4), side=(5, 8)),
    Stage(650, 3072, frames=(4, 6), side=(8, 12)),
    Stage(150, 2560, frames=(8, 12), side=(14, 18)),
    Stage(20, 9216, frames=(16, 16), side=(24, 24)),
)
"""What is to be seen is learnt from many small videos, where it is in large ones from few."""

STEPS = sum(stage.steps for stage in STAGES)
RATE, WARM, LEAST = 3e-3, 50, 0.04
"""The highest learning rate, steps until it is reached, and the share of it at the end."""

KEPT_EVERY = 50
"""Steps between two checkpoints."""


def rate(step: int) -> float:
    """The learning rate of a step: up, then down along a line."""
    return RATE * min((step + 1) / WARM, max(LEAST, 1 - step / STEPS))


def videos(step: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """What a step sees [B, 3, frames, height, width], its prompts [B, 3], and its dice."""
    chance = torch.Generator().manual_seed(step)
    stage = _stage(step)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=chance))

    frames, rows, columns = between(*stage.frames), between(*stage.side), between(*stage.side)
    scenes = draw(max(1, stage.tokens // (frames * rows * columns)), chance)
    return render(scenes, frames, rows * PATCH, columns * PATCH), scenes.prompt, chance


def _stage(step: int) -> Stage:
    for stage in STAGES:
        if step < stage.steps:
            return stage
        step -= stage.steps
    raise IndexError(f"there are {STEPS} steps")


def train_step(model: VideoDiT, optimisers: Optimisers, step: int) -> float:
    """One step; the loss before it. The same step of the same network gives the same bits."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = flow.loss(model, *videos(step))
    descend(loss, model, optimisers, rate(step))
    return float(loss.detach())


def trained(weights: Path = WEIGHTS) -> VideoDiT:
    """The network with weights that `train` has written, in evaluation mode.

    Raises:
        FileNotFoundError: There are none.
    """
    if not weights.is_file():
        raise FileNotFoundError(
            f"{weights} is missing; python -m examples.video_dit.train -o {weights} makes it in "
            "about 20 minutes"
        )
    model = VideoDiT()
    model.load_state_dict({name: each.float() for name, each in load_file(weights).items()})
    return model.eval()


def train(
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Weights, with a checkpoint beside while they are learnt."
        ),
    ] = WEIGHTS,
) -> None:
    """Train the network on one thread, in about 20 minutes.

    A run that was stopped goes on from its checkpoint. The weights are half precision.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = VideoDiT()
    optimisers = optimisers_of(model, model.blocks, RATE)
    checkpoint = output.with_suffix(".checkpoint")
    output.parent.mkdir(parents=True, exist_ok=True)
    start, begun = _resumed(checkpoint, model, optimisers), time.perf_counter()
    with bar("training") as progress:
        for step in range(start, STEPS):
            loss = train_step(model, optimisers, step)
            progress(f"loss {loss:.3f}", (step + 1) / STEPS)
            if (step + 1) % KEPT_EVERY == 0:
                _keep(checkpoint, model, optimisers, step + 1)
    with aside(output) as path:
        save_file({name: each.half() for name, each in model.state_dict().items()}, path)
    checkpoint.unlink(missing_ok=True)
    typer.echo(f"{output} after {STEPS - start} steps in {time.perf_counter() - begun:.0f} s")


def _keep(checkpoint: Path, model: VideoDiT, optimisers: Optimisers, step: int) -> None:
    states = [each.state_dict() for each in optimisers]
    with aside(checkpoint) as path:
        torch.save({"model": model.state_dict(), "optimisers": states, "step": step}, path)


def _resumed(checkpoint: Path, model: VideoDiT, optimisers: Optimisers) -> int:
    """The step to go on from, with everything as it was."""
    if not checkpoint.is_file():
        return 0
    kept: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(kept["model"])
    for optimiser, state in zip(optimisers, kept["optimisers"], strict=True):
        optimiser.load_state_dict(state)
    return int(kept["step"])


app = typer.Typer(add_completion=False, rich_markup_mode="rich")
app.command(epilog=EXAMPLES)(train)

if __name__ == "__main__":
    app()
