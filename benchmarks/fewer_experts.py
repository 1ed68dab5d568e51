"""What fewer experts lose on a trained model: `python -m benchmarks.fewer_experts --help`.

A small transformer over patches of scikit-learn's digits, two layers with 16 experts each, of which
a token has two, is trained on 1,000 pictures in seconds. Experts are then left out or merged by
what 400 of these pictures need, without labels, and the model reads the 797 others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import page, rows
from sparsecc import targets
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.capture import capture
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.experts.carry_out import carry_out
from sparsecc.passes.experts.offers import Weighed, weigh
from sparsecc.passes.experts.routing import observe
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.metrics import relative_error
from sparsecc.search.routing import PlanMixture

NAME = "fewer-experts"
EXPERTS, CHOSEN, WIDTH, HIDDEN, HEADS = 16, 2, 64, 64, 4
TRAINED, CALIBRATED, BATCH = 1000, 400, 50
KEPT = (14, 12, 10, 8, 6, 4, 2)
SIDE, PATCH, CLASSES = 8, 2, 10


class Experts(nn.Module):
    """Softmax, the best two renormalised; experts behind ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN) / WIDTH**0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH) / HIDDEN**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Of tokens ``[batch, tokens, WIDTH]``."""
        gates, chosen = torch.topk(functional.softmax(self.router(x), dim=-1), CHOSEN, dim=-1)
        gates = gates / gates.sum(-1, keepdim=True)
        hot = functional.one_hot(chosen, EXPERTS).to(x.dtype)
        dense = torch.einsum("bsk,bske->bse", gates, hot)
        hidden = functional.relu(torch.einsum("bsd,edf->bsef", x, self.up))
        return torch.einsum("bsef,efd,bse->bsd", hidden, self.down, dense)


class Layer(nn.Module):
    """Attention and experts, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.experts = Experts()

    def forward(self, x: Tensor) -> Tensor:
        """Of tokens ``[batch, tokens, WIDTH]``."""
        parts = self.qkv(self.norms[0](x)).chunk(3, dim=-1)
        q, k, v = (each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in parts)
        made = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(made.transpose(1, 2).flatten(2))
        return x + self.experts(self.norms[1](x))


class Reader(nn.Module):
    """Digits of 8 by 8 pixels in patches of 2 by 2, two layers, and ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH * PATCH, WIDTH)
        self.places = nn.Parameter(torch.randn((SIDE // PATCH) ** 2, WIDTH) / 2)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of patches ``[batch, 16, 4]``."""
        x = self.embed(x) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(dim=1))


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Patches of all pictures, shuffled, and what they show."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    sides = (SIDE // PATCH, PATCH)
    patches = found.images[order].reshape(-1, *sides, *sides).transpose(0, 1, 3, 2, 4)
    pictures = patches.reshape(len(order), -1, PATCH * PATCH) / 8 - 1
    return pictures.astype(np.float32), found.target[order].astype(np.int64)


def trained(epochs: int) -> nn.Module:
    """The reader, after so many turns over the pictures that it is trained on."""
    torch.manual_seed(0)
    model, (x, y) = Reader(), (torch.from_numpy(each[:TRAINED]) for each in digits())
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * (TRAINED // BATCH))
    for _ in range(epochs):
        for own in torch.randperm(TRAINED).split(BATCH):
            loss = functional.cross_entropy(model(x[own]), y[own])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


@dataclass(frozen=True)
class Row:
    """A number of experts.

    Attributes:
        kept: Of each layer.
        means: How they became fewer.
        loss: Mean relative error of the mixtures' results on held-out calibration data.
        error: Relative error of the logits on pictures that were not seen.
        accuracy: On these.
        weight_bytes: Of the experts.
        predicted_ms: Of the mixtures, one thread.
    """

    kept: int
    means: str
    loss: float
    error: float
    accuracy: float
    weight_bytes: int
    predicted_ms: float


MEANS: dict[str, tuple[str, bool]] = {
    "left out": ("prune", False),
    "left out, refitted": ("prune", True),
    "merged": ("merge", False),
    "merged, refitted": ("merge", True),
}


def measure(epochs: int) -> tuple[list[Row], list[PlanMixture]]:
    """All rows, and the mixtures with all experts, on a model that is trained now."""
    x, y = digits()
    graph = capture(trained(epochs), (torch.from_numpy(x[:2]),), ({0: torch.export.Dim("batch")},))
    run(pipeline.EXACT_BEFORE, graph, Context())
    name = str(graph.graph.inputs[0].name)
    half = CALIBRATED // 2
    data = Calibration(({name: x[:half]},), ({name: x[half:CALIBRATED]},))
    seen = observe(graph, data, lambda *_: None)
    weighed = {
        refit: [weigh(each, KEPT, targets.read("x86-64-v4"), refit=refit) for each in seen]
        for refit in (False, True)
    }
    (wanted,) = session_of_model(graph).run(None, {name: x[TRAINED:]})
    whole = [each.whole for each in weighed[False]]
    watched = {each.mixture.name: each for each in seen}

    def row(kept: int, means: str, entries: Sequence[PlanMixture]) -> Row:
        model = graph.clone()
        carry_out(model, entries, watched)
        (made,) = session_of_model(model).run(None, {name: x[TRAINED:]})
        return Row(
            kept,
            means,
            float(np.mean([each.loss for each in entries])),
            float(relative_error(wanted, made)),
            float(np.mean(made.argmax(1) == y[TRAINED:])),
            _bytes(model),
            sum(each.predicted_ms for each in entries),
        )

    found = [row(EXPERTS, "", whole)]
    for kept in KEPT:
        for title, (means, refit) in MEANS.items():
            entries = [_with(each, kept, means) for each in weighed[refit]]
            found.append(row(kept, title, entries))
    return found, whole


def _with(weighed: Weighed, kept: int, means: str) -> PlanMixture:
    return weighed.chosen(lambda option: (option.kept, option.means) == (kept, means), "")


def _bytes(model: ir.Model) -> int:
    arrays = (each.const_value for each in model.graph.initializers.values())
    return sum(each.nbytes for each in arrays if each is not None and len(each.shape) == 3)


def section(found: Sequence[Row], whole: Sequence[PlanMixture]) -> str:
    """The table, and how tokens spread."""
    by_size = {(row.kept, row.means): row for row in found}
    all_of_them = by_size[EXPERTS, ""]
    lines = [
        ["experts", "kB", *MEANS],
        ["---"] * (2 + len(MEANS)),
        [str(EXPERTS), f"{all_of_them.weight_bytes / 1e3:.0f}", *[_cell(all_of_them)] * len(MEANS)],
    ]
    for kept in KEPT:
        own = [by_size[kept, means] for means in MEANS]
        size = f"{own[0].weight_bytes / 1e3:.0f}"
        lines.append([str(kept), size, *(_cell(each) for each in own)])
    table = page.markdown(lines)
    spread = "; ".join(
        f"layer {at}: {sum(count > 0 for count in each.chosen)} of {EXPERTS} chosen, the busiest "
        f"{max(each.chosen) * EXPERTS / sum(each.chosen):.1f} times the mean"
        for at, each in enumerate(whole, 1)
    )
    return (
        f"Digits of scikit-learn, two layers of {EXPERTS} experts, two of them for a token, "
        f"trained on {TRAINED} pictures; {CALIBRATED} of these tell, without labels, which experts "
        f"stay, the others are read. {spread}. In the columns the squared "
        f"relative error of the logits, and the share that is read right.\n\n{table}"
    )


def _cell(row: Row) -> str:
    return f"{row.error:.2g}, {row.accuracy:.1%}"


def main(
    epochs: Annotated[int, typer.Option(min=1, help="Of the training.")] = 20,
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/fewer_experts.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Trains, leaves experts out and merges them; writes JSON and a page."""
    found, whole = measure(epochs)
    content: dict[str, Any] = {"machine": rows.machine(), "rows": [asdict(row) for row in found]}
    page.publish(NAME, section(found, whole), content, output, page_file)


if __name__ == "__main__":
    typer.run(main)
