"""How well times are predicted: `python -m benchmarks.cost --help`.

Kernels are timed on shapes that no calibration measured, whole models as compiled; both beside what
the cost model says before. Reported are the mean absolute percentage error (MAPE) and Kendall's
tau, which tells how well the order of times is known.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime as ort
import typer
from rich.console import Console
from rich.progress import track

import sparsecc
from benchmarks import build, page, spec
from sparsecc import targets
from sparsecc.artifact import open_artifact
from sparsecc.backends.kernels.measured import rows_of
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.capture import capture
from sparsecc.cost.calibration import Bench, one_core, processor
from sparsecc.cost.families import Call
from sparsecc.cost.model import CostModel, cost_model
from sparsecc.cost.shapes import shapes
from sparsecc.inspection import rewrite
from sparsecc.manifest import MODEL_NAME
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions.predict import predict_model

NAME = "cost"
HELD_OUT = "held out"
PATTERNS = "4x1:0.7,4x1:0.9,unstructured:0.8,unstructured:0.95"
LEAST_RUNS = 10
SESSIONS, SECONDS = 3, 0.4


@dataclasses.dataclass(frozen=True)
class Pair:
    """A time as predicted and as measured, ms.

    Attributes:
        what: Kernel or model.
        detail: Shape or pattern.
        predicted: Before it ran.
        measured: The median.
    """

    what: str
    detail: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was measured."""
        return self.predicted / self.measured - 1


def mape(pairs: Sequence[Pair]) -> float:
    """Mean absolute percentage error, as a share."""
    return float(np.mean([abs(pair.error) for pair in pairs]))


def tau(pairs: Sequence[Pair]) -> float:
    """Kendall's tau between predicted and measured times."""
    from scipy.stats import kendalltau

    found = kendalltau([pair.predicted for pair in pairs], [pair.measured for pair in pairs])
    return float(found.statistic)


def _predicted(model: CostModel, call: Call) -> float:
    if call.is_dense:
        return model.dense(call.work).ms
    return model.sparse(call.work, call.block, call.blocks, beside=True).ms


def kernel_pairs(target: targets.Target, count: int) -> Iterator[Pair]:
    """Shapes that no calibration measured, of every kernel."""
    model, bench, rows = cost_model(target), Bench(target), rows_of(target)
    for row in track(rows, "kernels", console=Console(stderr=True)):
        for seed, shape in enumerate(shapes(row, target, count, salt=HELD_OUT)):
            predicted = _predicted(model, shape.call)
            yield Pair(row.name, str(shape), predicted, bench.ms(shape, seed))


def model_pairs(
    target: targets.Target, names: Sequence[str], patterns: Sequence[str], folder: Path
) -> Iterator[Pair]:
    """Whole models as compiled, one thread."""
    jobs = [(name, pattern) for name in names for pattern in patterns]
    for name, pattern in track(jobs, "models", console=Console(stderr=True)):
        layers = list(spec.load(name))
        path = build.write(name, pattern, folder / "models", layers)
        artifact = folder / "artifacts" / path.stem
        if not artifact.exists():
            sparsecc.compile(path, target=target.name).save(artifact)
        graph, ctx = capture(path), Context(target=target)
        run(pipeline.EXACT_BEFORE, graph, ctx)
        predicted = predict_model(graph, rewrite(graph, target, ctx), target).ms
        yield Pair(name, pattern, predicted, _measured(artifact, layers))


def _measured(artifact: Path, layers: list[spec.Layer]) -> float:
    """Median of the medians of some sessions: where one lies in memory makes a difference too."""
    library = open_artifact(artifact).library
    own = None if library is None else artifact / library
    feeds = build.inputs(layers)
    medians = []
    for _ in range(SESSIONS):
        session = open_session(artifact / MODEL_NAME, library=own, threads=1)
        times: list[float] = []
        session.run(None, feeds)
        end = time.perf_counter() + SECONDS
        while len(times) < LEAST_RUNS or time.perf_counter() < end:
            start = time.perf_counter()
            session.run(None, feeds)
            times.append(time.perf_counter() - start)
        medians.append(float(np.median(times)))
    return float(np.median(medians)) * 1e3


def section(kernels: Sequence[Pair], models: Sequence[Pair], costs: str) -> str:
    """What docs/performance.md says."""
    by: dict[str, list[Pair]] = defaultdict(list)
    for pair in kernels:
        by[pair.what].append(pair)
    lines = ["| kernel | shapes | MAPE | Kendall τ |", "|---|---|---|---|"]
    lines += [f"| {what} | {len(p)} | {mape(p):.1%} | {tau(p):.3f} |" for what, p in by.items()]
    if kernels:
        whole = f"| **all** | {len(kernels)} | **{mape(kernels):.1%}** | **{tau(kernels):.3f}** |"
        lines.append(whole)
    lines += [
        "",
        "| model | zeros | predicted, ms | measured, ms | error |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {pair.what} | {pair.detail} | {pair.predicted:.2f} | {pair.measured:.2f} "
        f"| {pair.error:+.1%} |"
        for pair in models
    ]
    if models:
        lines.append(f"| **all** | MAPE {mape(models):.1%} | τ {tau(models):.3f} | | |")
    what = f"{processor()}, one thread, ONNX Runtime {ort.__version__}, cost table {costs}."
    return "\n".join([what, "", *lines])


def main(
    target: Annotated[str, typer.Option(help="Target of this machine.")] = "native",
    count: Annotated[int, typer.Option(help="Shapes of each kernel.")] = 30,
    models: Annotated[str, typer.Option(help="Comma-separated; all by default.")] = "",
    patterns: Annotated[str, typer.Option(help="Comma-separated zeros.")] = PATTERNS,
    output: Annotated[
        Path, typer.Option("-o", help="JSON file; kept rows are not measured again.")
    ] = Path("out/cost.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Predicts and measures kernels and models; goes on where an interrupted run stopped."""
    hardware = targets.get(target)
    costs = cost_model(hardware).name
    kept = json.loads(output.read_text()) if output.exists() else {}
    if kept.get("costs") != costs:
        kept = {"costs": costs, "kernels": [], "models": []}
    found = [Pair(**row) for row in kept["kernels"]]
    whole = [Pair(**row) for row in kept["models"]]
    output.parent.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        rows = {"kernels": found, "models": whole}
        text = {name: [dataclasses.asdict(pair) for pair in pairs] for name, pairs in rows.items()}
        output.write_text(json.dumps({"costs": costs, **text}, indent=1) + "\n")

    with one_core():
        if not found:
            found += kernel_pairs(hardware, count)
            save()
        have = {pair.what for pair in whole}
        names = models.split(",") if models else spec.names()
        for name in (name for name in names if name not in have):
            whole += model_pairs(hardware, [name], patterns.split(","), output.with_suffix(""))
            save()
    text = section(found, whole, costs)
    print(text)
    if page_file is not None:
        page.put(page_file, NAME, text)


if __name__ == "__main__":
    typer.run(main)
