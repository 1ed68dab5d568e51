"""What the order of channels keeps at 50 % zeros in 4×1 blocks: `python -m benchmarks.permutation`.

For drawn weights and for every set of channels of trained models that a pattern sees: the share of
the energy w² that blocks keep with channels as they are, sorted by size, grouped greedily, and as
the search leaves them; what single zeros would keep; and how much of the difference is recovered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import typer
from rich.console import Console

from benchmarks import page
from sparsecc.capture import capture
from sparsecc.formats.patterns import Pattern
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.permute.couplings import find_couplings
from sparsecc.passes.permute.problems import importance, problems
from sparsecc.passes.permute.search import Term, by_size, greedy, retained, search
from sparsecc.passes.weights.layers import find_layers
from sparsecc.search.plan import Choice

NAME = "permutation"
PATTERN, SPARSITY = "4x1", 0.5
ROWS, COLS = 256, 256

Terms = tuple[Term, ...]


@dataclass(frozen=True)
class Row:
    """Means over the sets of channels of one family.

    Attributes:
        family: What the weights are.
        sets: How many sets.
        channels: In the largest of them.
        kept: Share kept as it is, by size, greedily, searched, and by single zeros.
        seconds: That all searches took.
    """

    family: str
    sets: int
    channels: int
    kept: tuple[float, float, float, float, float]
    seconds: float

    @property
    def recovered(self) -> float:
        """Share of the difference to single zeros that the search makes up for."""
        return (self.kept[3] - self.kept[0]) / max(self.kept[4] - self.kept[0], 1e-9)


def drawn() -> Iterator[tuple[str, list[Terms]]]:
    """Independent weights; the same with rows, and with clusters of rows, of different scale."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1, (ROWS, COLS))
    clusters = rng.lognormal(0, 0.7, (16, COLS))[rng.integers(0, 16, ROWS)]
    kinds = {
        "drawn, independent": weight,
        "drawn, rows of different scale": weight * rng.lognormal(0, 0.5, (ROWS, 1)),
        "drawn, clusters of rows": weight * clusters,
    }
    for kind, values in kinds.items():
        yield kind, [(Term(np.square(values).astype(np.float32), 4, density=1 - SPARSITY),)]


def of_model(model: ir.Model) -> list[Terms]:
    """The terms of every set of channels of a captured model that the pattern sees."""
    run(pipeline.EXACT_BEFORE, model, Context())
    choice = Choice(pattern=Pattern.parse(PATTERN), sparsity=SPARSITY, method="magnitude")
    layers = [layer for layer in find_layers(model).layers if not layer.keep_dense]
    choices = {layer.name: choice for layer in layers}
    found = problems(find_couplings(model), layers, choices, importance(model, layers, None))
    return [each.terms for each in found]


def whole(terms: Terms) -> bool:
    """Whether no other blocks compete with those of the set."""
    return all(not term.rest.size for term in terms)


def encoder() -> Iterator[tuple[str, list[Terms]]]:
    """MiniLM: hidden layers, and features inside heads of queries, keys and values."""
    from benchmarks.trained import encoder as subject

    made = subject()
    settings = made.settings
    model = capture(made.model, settings["example_inputs"], settings["dynamic_shapes"])
    found = of_model(model)
    yield "MiniLM, hidden layers", [terms for terms in found if whole(terms)]
    yield "MiniLM, features of heads", [terms for terms in found if not whole(terms)]


def recogniser() -> Iterator[tuple[str, list[Terms]]]:
    """PP-OCRv4's recogniser: all sets."""
    from examples.ocr.recognizer import package_model

    yield "PP-OCRv4 recogniser", of_model(capture(package_model()))


def classifier() -> Iterator[tuple[str, list[Terms]]]:
    """The CNN of the MNIST example, trained here (two minutes)."""
    import torch

    from examples.mnist_cnn.model import train

    example = (torch.zeros(2, 1, 28, 28),)
    yield "CNN trained on MNIST", of_model(capture(train(0), example))


SOURCES: dict[str, Callable[[], Iterator[tuple[str, list[Terms]]]]] = {
    "drawn": drawn,
    "encoder": encoder,
    "recogniser": recogniser,
    "classifier": classifier,
}


def row_of(family: str, sets: list[Terms]) -> Row:
    """Search every set and sum up."""
    shares, seconds = [], 0.0
    for terms in sets:
        start = time.perf_counter()
        found = search(terms)
        seconds += time.perf_counter() - start
        orders = (by_size(terms), greedy(terms))
        others = [retained(terms, order) for order in orders]
        shares.append([found.before, *others, found.after, _single(terms)])
    means: Any = np.mean(shares, axis=0)
    most = max(len(terms[0].scores) for terms in sets)
    return Row(family, len(sets), most, tuple(means.tolist()), seconds)


def _single(terms: Terms) -> float:
    """Mean share that single zeros keep of the channels of a set."""
    shares = []
    for term in terms:
        energies = np.sort(term.scores.ravel().astype(np.float64))
        kept = energies[round((1 - term.density) * energies.size) :].sum()
        rest = float(term.rest.sum(dtype=np.float64))
        shares.append((kept + kept / energies.sum() * rest) / (energies.sum() + rest))
    return float(np.mean(shares))


def table(rows: list[Row]) -> str:
    """Markdown: a line per family."""
    lines = [
        "| weights | sets (channels) | as they are | by size | greedy | searched | single zeros "
        "| recovered | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        kept = " | ".join(f"{share:.3f}" for share in row.kept)
        lines.append(
            f"| {row.family} | {row.sets} (≤ {row.channels}) | {kept} "
            f"| **{row.recovered:.0%}** | {row.seconds:.1f} |"
        )
    return "\n".join(lines)


def main(
    sources: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(SOURCES),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Searches, prints a table and writes it into a page."""
    rows = []
    for source in sources.split(","):
        for family, sets in SOURCES[source]():
            rows.append(row_of(family, sets))
            print(rows[-1], flush=True)
    section = table(rows)
    Console().print(section, markup=False)
    if page_file is not None:
        page.put(page_file, NAME, section)


if __name__ == "__main__":
    typer.run(main)
