"""Zeros × method on trained models: what is kept, and at what speed.

`python -m benchmarks.quality --page docs/quality.md` measures, writes the tables and draws the
picture. Every cell is a model compiled by one method to one share of zeros, the same in all layers,
and judged on data that its calibration did not see. How fast such zeros run is measured once per
model and zeros: which method chose them hardly matters for that. A run that was interrupted goes on
where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

import sparsecc
from benchmarks import page, plots
from benchmarks.plans import Bench, answers
from benchmarks.rows import keep
from benchmarks.trained import SUBJECTS, Subject, taught
from sparsecc.bench import compare
from sparsecc.progress import bar
from sparsecc.quality.samples.made_up import WORD, generated

NAME = "quality"
PICTURE = "quality.svg"
MODELS = ("encoder", "recogniser", "photographs")
PATTERNS = ("4x1:0.5", "4x1:0.7", "unstructured:0.5", "unstructured:0.7")
SAMPLES = 256
"""Calibration samples of each model: enough for statistics of a large layer."""
MADE_UP = 384
RECOVERED = "+ recovery"
"""The method that learns from the whole calibration instead."""
_BEST: dict[str, Any] = {"score": "alps", "refit": True}
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"calibration": None},
    "Wanda": {"score": "wanda", "refit": False},
    "SparseGPT": {"score": "sparsegpt", "refit": False},
    "ALPS": {"score": "alps", "refit": False},
    "+ refit": _BEST,
    "+ permutation": {**_BEST, "permute": True},
    RECOVERED: {**_BEST, "permute": True, "recover": "2min"},
    "generated": {**_BEST, "calibration": WORD},
}
"""Method → how to compile: four that choose masks alone (by magnitude without data), then each adds
to the one before; and what `+ refit` does with made-up data."""
USUAL = tuple(METHODS)[:7]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model, pruned by one method.

    Attributes:
        model: Title.
        measure: What its quality is.
        zeros: Pattern and share.
        method: Key of METHODS.
        quality: On fresh data.
        dense: Quality of the dense model on them.
        seconds: That compiling took.
    """

    model: str
    measure: str
    zeros: str
    method: str
    quality: float
    dense: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast a model with such zeros is.

    Attributes:
        model: Title.
        zeros: Pattern and share.
        ratio: Speed-up over ONNX Runtime on the dense model, with its quartiles.
        ms: Time of one run.
    """

    model: str
    zeros: str
    ratio: tuple[float, float, float]
    ms: float


@dataclasses.dataclass
class Results:
    """What was measured so far, and the file it is in."""

    path: Path
    cells: list[Cell] = dataclasses.field(default_factory=list)
    speeds: list[Speed] = dataclasses.field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Results of a file, or none yet."""
        if not path.exists():
            return cls(path)
        data = json.loads(path.read_text())
        speeds = [Speed(**{**each, "ratio": tuple(each["ratio"])}) for each in data["speeds"]]
        return cls(path, [Cell(**each) for each in data["cells"]], speeds)

    def save(self) -> None:
        """Write the file."""
        data = {
            "cells": [dataclasses.asdict(each) for each in self.cells],
            "speeds": [dataclasses.asdict(each) for each in self.speeds],
        }
        keep(self.path, data)

    def cell(self, model: str, zeros: str, method: str) -> Cell | None:
        """What was measured of a model, pruned by a method."""
        found = (c for c in self.cells if (c.model, c.zeros, c.method) == (model, zeros, method))
        return next(found, None)

    def speed(self, model: str, zeros: str) -> Speed | None:
        """What was measured of a model with such zeros."""
        return next((s for s in self.speeds if (s.model, s.zeros) == (model, zeros)), None)


def shortened(given: Any, samples: int) -> Any:
    """The first so many samples of a calibration."""
    if isinstance(given, Mapping):
        return {name: array[:samples] for name, array in given.items()}
    size = len(next(iter(given[0].values())))
    return list(islice(given, max(2, -(-samples // size))))


def fill(
    results: Results,
    model: str,
    patterns: Sequence[str],
    methods: Sequence[str],
    samples: int,
    seconds: float,
) -> None:
    """Measure what is missing of a subject, and write it down cell by cell.

    Args:
        results: What is known, and where it is written.
        model: Key of SUBJECTS.
        patterns: Zeros.
        methods: Keys of METHODS.
        samples: Of the calibration that all but a recovery see.
        seconds: How long each artifact is timed; 0 leaves the times for another run.
    """
    subject = SUBJECTS[model]()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(subject, Path(scratch), seconds)
        for zeros in patterns:
            for method in methods:
                if results.cell(subject.title, zeros, method) is None:
                    data = _calibration(model, subject, method, samples)
                    results.cells.append(_measured(bench, zeros, method, data))
                    results.save()
                    print(results.cells[-1], flush=True)
            if seconds and results.speed(subject.title, zeros) is None:
                results.speeds.append(_timed(bench, zeros))
                results.save()


def _calibration(model: str, subject: Subject, method: str, samples: int) -> Any:
    if method == RECOVERED:
        return taught(model, subject)
    if METHODS[method].get("calibration") == WORD:
        shapes = {name: array.shape[1:] for name, array in subject.one.items()}
        return generated(samples=MADE_UP, shapes=shapes)
    return shortened(subject.settings["calibration"], samples)


def _measured(bench: Bench, zeros: str, method: str, data: Any) -> Cell:
    subject = bench.subject
    settings = {"calibration": data} | {k: v for k, v in METHODS[method].items() if v != WORD}
    start = time.perf_counter()  # from the dense file: a module would be exported every time
    with bar(f"{subject.title} · {zeros} · {method}") as progress:
        made = sparsecc.compile(bench.baseline, sparsity=zeros, progress=progress, **settings)
    took = time.perf_counter() - start
    ours = subject.quality(answers(subject.test, made.run), bench.dense)
    return Cell(subject.title, subject.measure, zeros, method, ours, bench.best, took)


def _timed(bench: Bench, zeros: str) -> Speed:
    made = sparsecc.compile(bench.baseline, sparsity=zeros)
    artifact = made.save(bench.folder / "artifact")
    timed = compare(artifact, bench.baseline, inputs=bench.subject.one, seconds=bench.seconds)
    ratio = (timed.ratio, timed.ratio_low, timed.ratio_high)
    return Speed(bench.subject.title, zeros, ratio, timed.ours_ms)


def section(results: Results) -> str:
    """Markdown: the picture, and a table for each model."""
    parts = [f"![Quality against speed]({PICTURE})"]
    for title in dict.fromkeys(cell.model for cell in results.cells):
        parts += [f"**{title}**: {_said(results, title)}", "\n".join(_lines(results, title))]
    return "\n\n".join(parts)


def _said(results: Results, title: str) -> str:
    cell = next(cell for cell in results.cells if cell.model == title)
    return f"{cell.measure}; the dense model has {cell.dense:.3f}."


def _lines(results: Results, title: str) -> Iterator[str]:
    methods = [m for m in METHODS if any(c.method == m for c in results.cells)]
    yield f"| zeros | speed-up | {' | '.join(methods)} |"
    yield f"|{'---|' * (len(methods) + 2)}"
    for zeros in dict.fromkeys(cell.zeros for cell in results.cells if cell.model == title):
        found = [results.cell(title, zeros, method) for method in methods]
        best = max(cell.quality for cell in found if cell)
        shown = [_shown(cell, best) for cell in found]
        speed = results.speed(title, zeros)
        ratio = "–" if speed is None else f"{speed.ratio[0]:.2f}"
        yield f"| {zeros} | {ratio} | {' | '.join(shown)} |"


def _shown(cell: Cell | None, best: float) -> str:
    if cell is None:
        return "–"
    return f"**{cell.quality:.3f}**" if cell.quality == best else f"{cell.quality:.3f}"


def points(results: Results) -> list[plots.Point]:
    """What the picture shows: every cell whose speed is known."""
    return [
        plots.Point(cell.model, cell.method, cell.zeros, speed.ratio[0], cell.dense - cell.quality)
        for cell in results.cells
        if (speed := results.speed(cell.model, cell.zeros)) is not None
    ]


def main(
    models: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(MODELS),
    patterns: Annotated[str, typer.Option(help="Zeros, comma-separated.")] = ",".join(PATTERNS),
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(USUAL),
    samples: Annotated[int, typer.Option(help="Calibration samples of each model.")] = SAMPLES,
    seconds: Annotated[float, typer.Option(help="Of timing each artifact; 0: not now.")] = 5.0,
    out: Annotated[
        Path, typer.Option("-o", help="JSON; what is in it is not measured again.")
    ] = Path("out/quality.json"),
    page_file: Annotated[
        Path | None,
        typer.Option("--page", help="Markdown page with the markers; the picture goes beside it."),
    ] = None,
) -> None:
    """Measures what is missing; writes tables and the picture into a page."""
    results = Results.load(out)
    wanted, chosen = patterns.split(","), methods.split(",")
    for name in models.split(","):
        fill(results, name, wanted, chosen, samples, seconds)
    print(section(results))
    if page_file is not None:
        plots.pareto(points(results), page_file.with_name(PICTURE))
        page.put(page_file, NAME, section(results))


if __name__ == "__main__":
    typer.run(main)
