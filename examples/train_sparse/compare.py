"""Trains the CNN of `examples.mnist_cnn` sparse in several ways; accuracy and speed of each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn

import sparsecc
from examples._mnist import mnist
from examples.mnist_cnn.model import accuracy, fit, logits, network, optimiser_of, steps
from sparsecc.bench import compare
from sparsecc.torch import Dynamic, Gradual, Progressive, Sparsifier
from sparsecc.torch.schedules import Schedule

EPOCHS, SEED = 4, 0
BENCH_SECONDS = 3.0
BATCH = 8
"""Pictures of one timed run."""


@dataclass(frozen=True)
class Recipe:
    """A way to train; schedules are in steps, so they know how many there will be."""

    title: str
    zeros: str = "dense"
    schedule: Callable[[int], Schedule] | None = None
    allocation: Literal["uniform", "erk"] = "uniform"


RECIPES = (
    Recipe("dense"),
    Recipe("gradual", "4x1:0.8", lambda n: Gradual(end=7 * n // 10)),
    Recipe("RigL, ERK", "4x1:0.8", lambda n: Dynamic(end=3 * n // 4), "erk"),
    Recipe("progressive", "4x1:0.8", lambda n: Progressive(begin=n // 10, end=7 * n // 10)),
    Recipe("progressive", "2:8", lambda n: Progressive(begin=n // 10, end=7 * n // 10)),
)


def train(recipe: Recipe, epochs: int, after_step: Callable[[int], None]) -> nn.Module:
    """A trained network whose zeros are exact."""
    torch.manual_seed(SEED)
    model = network()
    optimiser = optimiser_of(model)
    if recipe.schedule is None:
        return fit(model, optimiser, SEED, epochs, after_step)
    sparsifier = Sparsifier(
        model,
        recipe.zeros,
        recipe.schedule(steps(epochs)),
        allocation=recipe.allocation,
        optimizer=optimiser,
        seed=SEED,
    )

    def step(done: int) -> None:
        sparsifier.step()
        after_step(done)

    fit(model, optimiser, SEED, epochs, step)
    sparsifier.finish()
    return model


def main() -> None:
    """Trains, compiles, scores and times each recipe."""
    console = Console()
    pictures, labels = mnist("test")
    table = Table(title=f"MNIST CNN, {len(labels)} test pictures; {BATCH} pictures, one thread")
    for column in ("training", "zeros", "accuracy", "compiled", "ms", "speed"):
        table.add_column(column, justify="left" if column in ("training", "zeros") else "right")
    with tempfile.TemporaryDirectory() as scratch, Progress(console=console) as progress:
        baseline = Path(scratch) / "dense" / "model.onnx"
        for position, recipe in enumerate(RECIPES):
            task = progress.add_task(f"{recipe.title} {recipe.zeros}", total=steps(EPOCHS))
            model = train(recipe, EPOCHS, lambda n, task=task: progress.update(task, completed=n))
            compiled = sparsecc.compile(model, example_inputs=(torch.from_numpy(pictures[:2]),))
            folder = compiled.save(Path(scratch) / (str(position) if position else "dense"))
            cells = [f"{accuracy(run, pictures, labels):.1%}" for run in (logits(model), compiled)]
            inputs = {"input": pictures[:BATCH]}
            timed = compare(folder, baseline, inputs=inputs, seconds=BENCH_SECONDS)
            cells += [f"{timed.ours_ms:.2f}", f"{timed.ratio:.2f}" if position else "1"]
            table.add_row(recipe.title, recipe.zeros, *cells)
    console.print(table)
    console.print("speed: times ONNX Runtime with the dense network, in the same minute")


if __name__ == "__main__":
    main()
