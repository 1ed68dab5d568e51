"""A small transformer with ReLU reads digits with a quarter of its neurons; `--help` says more."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

import sparsecc
from examples._mnist import SIDE, mnist
from sparsecc.aside import aside
from sparsecc.bench import compare
from sparsecc.progress import bar

FEATURES, NEURONS, HEADS, BLOCKS = 192, 768, 4, 3
PATCH = 4
PLACES = (SIDE // PATCH) ** 2
EPOCHS, BATCH, RATE = 16, 64, 2e-3
PRESSURE = 0.05
"""Weight of the mean of hidden features in the loss: fewer are then positive."""
MOVED = 2
"""Pixels that a picture is moved by, at most, while training."""
PICTURES, LEARNT = 8, 1600
"""Of a run of the artifacts, and of the calibration."""
SHARES = (0.5, 0.25, 0.2)
WEIGHTS = Path("out/relu_experts/digits.safetensors")


class Block(nn.Module):
    """Attention and a feed-forward network behind ReLU, each added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(FEATURES)
        self.queries_keys_values = nn.Linear(FEATURES, 3 * FEATURES)
        self.mixed = nn.Linear(FEATURES, FEATURES)
        self.before_forward = nn.LayerNorm(FEATURES)
        self.forward_network = nn.Sequential(
            nn.Linear(FEATURES, NEURONS), nn.ReLU(), nn.Linear(NEURONS, FEATURES)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[pictures, PLACES, FEATURES] to the same."""
        parts = self.queries_keys_values(self.before_attention(x)).chunk(3, -1)
        heads = [each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in parts]
        seen = functional.scaled_dot_product_attention(*heads)
        x = x + self.mixed(seen.transpose(1, 2).flatten(-2))
        return x + self.forward_network(self.before_forward(x))


class Digits(nn.Module):
    """Scores of the digits of pictures [pictures, 1, SIDE, SIDE]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, FEATURES, PATCH, PATCH)
        self.places = nn.Parameter(0.02 * torch.randn(PLACES, FEATURES))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(FEATURES)
        self.scores = nn.Linear(FEATURES, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        """[pictures, 10]."""
        x = self.patches(pictures).flatten(2).transpose(1, 2) + self.places
        scores: Tensor = self.scores(self.norm(self.blocks(x)).mean(1))
        return scores


def train(epochs: int, count: int | None = None) -> Digits:
    """Train the network, on the first `count` pictures if that is given."""
    torch.manual_seed(0)
    model, (pictures, digits) = (
        Digits(),
        (torch.from_numpy(each[:count]) for each in mnist("train")),
    )
    steps = epochs * -(-len(pictures) // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps)
    active: list[Tensor] = []
    hooks = [
        block.forward_network[1].register_forward_hook(lambda *all: active.append(all[2].mean()))
        for block in model.blocks
    ]
    with bar("training") as progress:
        for step in range(steps):
            rows = torch.randint(len(pictures), (BATCH,))
            dx, dy = torch.randint(-MOVED, MOVED + 1, (2,)).tolist()
            scores = model(torch.roll(pictures[rows], (dx, dy), (2, 3)))
            loss = functional.cross_entropy(scores, digits[rows])
            optimiser.zero_grad()
            (loss + PRESSURE * torch.stack(active).sum()).backward()
            active.clear()
            optimiser.step()
            schedule.step()
            progress(f"loss {loss.item():.3f}", (step + 1) / steps)
    for hook in hooks:
        hook.remove()
    return model.eval()


def right(run: Any, count: int | None = None) -> float:
    """Share of the tested pictures that are read right."""
    pictures, digits = (each[:count] for each in mnist("test"))
    with torch.no_grad():
        scores = [
            np.asarray(run(torch.from_numpy(pictures[at : at + PICTURES])))
            for at in range(0, len(pictures), PICTURES)
        ]
    return float((np.concatenate(scores).argmax(1) == digits).mean())


def compiled(model: nn.Module, given: Tensor, share: float | None) -> Any:
    """Its artifact, with experts where a share of the neurons is given."""
    return sparsecc.compile(
        model,
        example_inputs=(given[:PICTURES],),
        experts=None if share is None else str(share),
        sparsity="dense",
        calibration={_name(given): given.numpy()},
    )


def _name(given: Tensor) -> str:
    """What the exporter calls the input of the whole network, and of one part."""
    return "pictures" if given.ndim == 4 else "input"


def report(model: Digits, scratch: Path, seconds: float) -> Table:
    """What experts lose, and what they take of the time of a feed-forward network."""
    learnt = torch.from_numpy(mnist("train")[0][:LEARNT])
    block, inside = model.blocks[1], []
    hook = block.forward_network.register_forward_hook(lambda *all: inside.append(all[1][0]))
    with torch.no_grad():
        model(learnt)
    hook.remove()
    alone, tokens = block.forward_network, inside[0]
    torch.onnx.export(
        alone, (tokens[:PICTURES],), scratch / "dense.onnx", dynamo=True, verbose=False
    )
    dense = right(model)
    table = Table(title=f"{dense:.1%} of the pictures are read right with all neurons")
    for column in (
        "neurons",
        "density",
        "right",
        "of that",
        "network, ms",
        "ONNX Runtime",
        "ratio",
    ):
        table.add_column(column, justify="right")
    for share in (None, *SHARES):
        whole, part = (
            compiled(each, given, share) for each, given in ((model, learnt), (alone, tokens))
        )
        found = compare(
            part.save(scratch / f"{share}"),
            scratch / "dense.onnx",
            inputs={"input": tokens[:PICTURES].numpy()},
            seconds=seconds,
        )
        read = right(whole)
        table.add_row(
            "all" if share is None else f"{share:.0%}",
            ", ".join(f"{each.density:.0%}" for each in whole.plan.experts),
            f"{read:.1%}",
            f"{read / dense:.1%}",
            f"{found.ours_ms:.3f}",
            f"{found.baseline_ms:.3f}",
            f"{found.ratio:.2f} ({found.ratio_low:.2f}-{found.ratio_high:.2f})",
        )
    return table


def main(
    weights: Annotated[Path, typer.Option(help="Written if it is not there.")] = WEIGHTS,
    epochs: Annotated[int, typer.Option(min=1)] = EPOCHS,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each timing.")] = 3.0,
) -> None:
    """Train the network, in about six minutes on one thread, and make experts of its neurons."""
    torch.set_num_threads(1)
    if weights.is_file():
        model = Digits().eval()
        model.load_state_dict(load_file(weights))
    else:
        model = train(epochs)
        weights.parent.mkdir(parents=True, exist_ok=True)
        with aside(weights) as path:
            save_file(model.state_dict(), path)
    with TemporaryDirectory() as scratch:
        Console().print(report(model, Path(scratch), seconds))


if __name__ == "__main__":
    typer.run(main)
