"""Accuracy and speed of the reader with some of its neurons, `--help` says more."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import sparsecc
from examples.relu_experts.experts import WAYS, choosing, split, tokens
from examples.relu_experts.model import CONTEXT, Reader
from examples.relu_experts.text import windows
from examples.relu_experts.train import FOLDER, GATHERED, GELU, RELU, SAMPLES, SEEN, STAGES, trained
from sparsecc.bench import compare

SHARES = (1.0, 0.5, 0.25, 0.2)
"""Of the neurons, that a token goes through."""
TESTED = 128
"""Texts of CONTEXT characters that accuracy is measured on."""
BLOCK = 1
"""Whose feed-forward network is timed alone."""
TIMED = (512, 2048)
"""Characters of a run."""
DENSE = "dense.onnx"
Engine = Literal["onnxruntime", "bundle"]
Run = Callable[[Tensor], Any]


def accuracy(run: Run, texts: int = TESTED) -> float:
    """Share of characters of held-out code that are foretold right."""
    text, following = windows("test", texts, seed=1)
    right = 0
    with torch.no_grad():
        for some, wanted in zip(text.split(16), following.split(16), strict=True):
            right += int((torch.as_tensor(run(some)).argmax(-1) == wanted).sum())
    return right / following.numel()


def compiled(model: nn.Module, share: float | None, calibration: Tensor, **more: Any) -> Any:
    """The model with its own weights, and with experts where a share of the neurons is given."""
    return sparsecc.compile(
        model,
        sparsity="dense",
        example_inputs=(calibration[:2],),
        dynamic_shapes=({0: torch.export.Dim.AUTO},),
        experts=None if share is None else str(share),
        calibration=None if share is None else feeds(calibration),
        **more,
    )


def feeds(given: Tensor) -> dict[str, NDArray[Any]]:
    """Characters, or what is behind them, as the input of a model."""
    return {"input" if given.is_floating_point() else "text": given.numpy()}


def refused(folder: Path) -> list[str]:
    """Why the networks with GELU stay as they are."""
    calibration, _ = windows("train", SAMPLES, SEEN)
    plan = compiled(trained(GELU.name, folder), 0.25, calibration).plan
    return [f"{each.name}: {each.reason}" for each in plan.experts]


def quality(name: str, folder: Path, texts: int = TESTED) -> Table:
    """Accuracy of every split at every share, and of what the compiler makes of it."""
    model = trained(name, folder)
    calibration, _ = windows("train", SAMPLES, SEEN)
    table = Table(title=f"{name}, {texts * CONTEXT} characters: {accuracy(model, texts):.2%} right")
    for column in ("neurons", *WAYS, "compiled"):
        table.add_column(column, justify="right")
    splits = {way: split(model, way, calibration) for way in WAYS}
    for share in SHARES:
        made = [accuracy(choosing(model, splits[way], share), texts) for way in WAYS]
        made.append(accuracy(compiled(model, share, calibration), texts))
        table.add_row(f"{share:.0%}", *(f"{each:.2%}" for each in made))
    return table


def densities(folder: Path) -> Table:
    """Share of hidden features of each block that are positive, in held-out code."""
    text, _ = windows("test", SAMPLES, seed=1)
    table = Table(title="positive hidden features")
    for column in ("after", "1", "2", "3", "4"):
        table.add_column(column, justify="right")
    for stage in STAGES:
        model = trained(stage.name, folder)
        with torch.no_grad():
            shares = [
                float((block.up(torch.from_numpy(x)) > 0).float().mean())
                for block, x in zip(model.blocks, tokens(model, text), strict=True)
            ]
        table.add_row(stage.name, *(f"{each:.1%}" for each in shares))
    return table


@dataclass(frozen=True)
class Variant:
    """An artifact to be timed.

    Attributes:
        engine: What runs it.
        share: Of the neurons, that a token goes through.
        folder: Of the artifact.
    """

    engine: Engine
    share: float
    folder: Path


def build(model: nn.Module, calibration: Tensor, folder: Path) -> list[Variant]:
    """Artifacts with all neurons and with some, and beside them the model for ONNX Runtime."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model,
        (calibration[:2],),
        folder / DENSE,
        dynamo=True,
        opset_version=20,
        dynamic_shapes=({0: torch.export.Dim.AUTO},),
        external_data=False,
        verbose=False,
    )
    made = []
    for engine, share in product(get_args(Engine), SHARES):
        own = compiled(model, None if share == 1 else share, calibration, backend=engine)
        made.append(Variant(engine, share, own.save(folder / f"{engine}-{share}")))
    return made


def speed(title: str, variants: Sequence[Variant], given: Tensor, seconds: float) -> Table:
    """Times of artifacts, each and ONNX Runtime with all neurons in turns, on one thread."""
    table = Table(title=title)
    for column in ("engine", "neurons", "ms", "ONNX Runtime, ms", "ratio", "quartiles"):
        table.add_column(column, justify="right")
    for each in variants:
        dense = each.folder.parent / DENSE
        found = compare(each.folder, dense, inputs=feeds(given), seconds=seconds)
        table.add_row(
            each.engine,
            f"{each.share:.0%}",
            f"{found.ours_ms:.2f}",
            f"{found.baseline_ms:.2f}",
            f"{found.ratio:.2f}",
            f"{found.ratio_low:.2f}-{found.ratio_high:.2f}",
        )
    return table


def forward_network(model: Reader) -> nn.Sequential:
    """The feed-forward network that is timed alone."""
    block = model.blocks[BLOCK]
    return nn.Sequential(block.up, block.activation, block.down).eval()


def main() -> None:
    """Prints what becomes of GELU, what experts lose, and what they gain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=FOLDER, help="what train has written")
    parser.add_argument("--only", choices=["quality", "speed"])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each timing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    if asked.only != "speed":
        print(*refused(asked.weights), sep="\n")
        dense = accuracy(trained(GELU.name, asked.weights))
        console.print(f"{GELU.name}, all neurons: {dense:.2%} right", densities(asked.weights))
        console.print(*(quality(each.name, asked.weights) for each in (RELU, GATHERED)))
    if asked.only == "quality":
        return
    model = trained(GATHERED.name, asked.weights)
    learnt, _ = windows("train", SAMPLES, SEEN)
    read, _ = windows("test", max(TIMED) // CONTEXT, SEEN)
    inside, given = (
        torch.from_numpy(tokens(model, text)[BLOCK]).view(len(text), CONTEXT, -1)
        for text in (learnt, read)
    )
    with TemporaryDirectory() as scratch:
        alone = build(forward_network(model), inside, Path(scratch) / "forward")
        whole = build(model, learnt, Path(scratch) / "whole")
        for count in TIMED:
            title = f"{count} characters, one thread"
            console.print(
                speed(f"feed-forward, {title}", alone, given[: count // CONTEXT], asked.seconds)
            )
            console.print(
                speed(f"whole network, {title}", whole, read[: count // CONTEXT], asked.seconds)
            )


if __name__ == "__main__":
    main()
