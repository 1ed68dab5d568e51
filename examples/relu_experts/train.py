"""Trains the reader: with GELU, with ReLU, and so that few experts are active at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from examples._optimisers import Optimisers, descend, optimisers_of
from examples.relu_experts.experts import split
from examples.relu_experts.gather import Gathering
from examples.relu_experts.model import Reader
from examples.relu_experts.text import windows
from sparsecc.aside import aside
from sparsecc.progress import bar
from sparsecc.torch import Relufier

FOLDER = Path("out/relu_experts")
TEXTS = 8
"""Of CONTEXT characters, in a step."""


@dataclass(frozen=True)
class Stage:
    """A part of training.

    Attributes:
        name: Of the activation that it ends with, and of the file of its weights.
        steps: How many.
        rate: The highest learning rate.
        first: Number of its first step, which says what text it sees.
    """

    name: str
    steps: int
    rate: float
    first: int


GELU = Stage("gelu", 2000, 3e-3, 0)
RELU = Stage("relu", 1000, 2e-3, 100_000)
GATHERED = Stage("gathered", 800, 2e-3, 200_000)
STAGES = (GELU, RELU, GATHERED)
PRESSURE = 0.2
"""Weight of the loss that gathers activity in few experts, in the last stage."""
SEEN, SAMPLES = 1 << 20, 32
"""Seed and number of texts that training did not draw: how neurons are grouped, and calibration."""
BLENDED = 300
"""Steps of the second stage in which GELU becomes ReLU."""
WARM, LEAST = 50, 0.04
"""Steps until the highest learning rate is reached, and the share of it at the end."""
Spread = Callable[[], Tensor | float]


def rate(stage: Stage, step: int) -> float:
    """The learning rate of a step: up along a line, then down along a cosine."""
    down = (1 + math.cos(math.pi * step / stage.steps)) / 2
    return stage.rate * min((step + 1) / WARM, 1) * (LEAST + (1 - LEAST) * down)


def train_step(
    model: nn.Module, optimisers: Optimisers, stage: Stage, step: int, spread: Spread
) -> float:
    """One step; the loss before it. The same step of the same network gives the same bits."""
    text, following = windows("train", TEXTS, stage.first + step)
    with torch.autocast("cpu", torch.bfloat16):
        loss = functional.cross_entropy(model(text).flatten(0, 1), following.flatten())
    descend(loss + PRESSURE * spread(), model, optimisers, rate(stage, step))
    return float(loss.detach())


def trained(name: str, folder: Path = FOLDER) -> Reader:
    """The network as a stage left it, in evaluation mode.

    Raises:
        FileNotFoundError: It was not trained.
    """
    weights = folder / f"{name}.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(
            f"{weights} is missing; python -m examples.relu_experts.train makes it in half an hour"
        )
    model = Reader(nn.GELU if name == GELU.name else nn.ReLU)
    model.load_state_dict(load_file(weights))
    return model.eval()


def train(
    folder: Annotated[Path, typer.Option("-o", "--output", help="Folder of weights.")] = FOLDER,
) -> None:
    """Train the network on one thread, in about half an hour.

    It learns with GELU, which then becomes ReLU, behind which activity is gathered in experts.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, begun = Reader(), time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        _train(model, stage)
        with aside(folder / f"{stage.name}.safetensors") as path:
            save_file(model.state_dict(), path)
    typer.echo(f"{folder} after {time.perf_counter() - begun:.0f} s")


def _train(model: Reader, stage: Stage) -> None:
    optimisers = optimisers_of(model, model.blocks, stage.rate)
    relufier = Relufier(model, BLENDED) if stage is RELU else None
    gathering = Gathering(model, _groups(model)) if stage is GATHERED else None
    spread = (lambda: 0.0) if gathering is None else gathering.loss
    with bar(f"training: {stage.name}") as progress:
        for step in range(stage.steps):
            loss = train_step(model, optimisers, stage, step, spread)
            if relufier is not None:
                relufier.step()
            progress(f"loss {loss:.3f}", (step + 1) / stage.steps)
    if gathering is not None:
        gathering.finish()


def _groups(model: Reader) -> list[NDArray[np.int64]]:
    """Neurons that are active together, as the compiler would group them."""
    text, _ = windows("train", SAMPLES, SEEN)
    return [groups for groups, _ in split(model, "activations", text)]


if __name__ == "__main__":
    typer.run(train)
