"""Measures compiled models beside ONNX Runtime dense: `python -m benchmarks.run --help`.

Both run the same weights, in the same run, with the same number of threads, taking turns
(`sparsecc.bench.compare`). A ratio is given with the quartiles of its paired samples; a row is only
written when both sides computed the right answer.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TaskID

import sparsecc
from benchmarks import build, spec
from sparsecc.bench import compare
from sparsecc.manifest import tool_versions

TOLERANCE = 1e-3
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
HEADER = (
    "| model | zeros | threads | ONNX Runtime ms | sparsecc ms | ratio | quartiles | error |",
    "|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Row:
    """One measurement; times in milliseconds, ratio = baseline / ours.

    Attributes:
        error: Largest difference between our output and the baseline's, over its largest value.
        baseline_error: The same between the baseline and ONNX Runtime without graph optimisation.
    """

    model: str
    pattern: str
    threads: int
    ours_ms: float
    baseline_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    error: float
    baseline_error: float
    compile_s: float
    size_mb: float

    def markdown(self) -> str:
        """The row as a line of a Markdown table."""
        cells = (
            self.model,
            self.pattern,
            str(self.threads),
            f"{self.baseline_ms:.2f}",
            f"{self.ours_ms:.2f}",
            f"**{self.ratio:.2f}**",
            f"{self.ratio_low:.2f}–{self.ratio_high:.2f}",
            f"{self.error:.0e}",
        )
        return f"| {' | '.join(cells)} |"


def relative_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest absolute difference over the largest expected magnitude."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def _dense(path: Path, feeds: dict[str, NDArray[Any]], *, optimised: bool) -> NDArray[Any]:
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    )
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def measure(
    name: str, pattern: str, threads: int, folder: Path, stage: Callable[[str], None] = print
) -> Row:
    """Builds, compiles, verifies and times one model.

    Args:
        name: A model of `benchmarks/models`.
        pattern: Its exact zeros, e.g. "4x1:0.8" or "dense".
        threads: Threads of both sides.
        folder: Where models and artifacts are kept between runs.
        stage: Told what is being done.

    Raises:
        RuntimeError: One of the sides computes something else than plain ONNX Runtime.
    """
    stage("building")
    path = build.write(name, pattern, folder / "models")
    stage("compiling")
    start = time.perf_counter()
    artifact = folder / "artifacts" / path.stem
    compiled = sparsecc.compile(path, target="native", sparsity="existing")
    compiled.save(artifact)
    seconds = time.perf_counter() - start
    stage("verifying")
    feeds = build.inputs(spec.load(name))
    plain = _dense(path, feeds, optimised=False)
    error = relative_error(compiled.run(feeds)["output"], plain)
    baseline_error = relative_error(_dense(path, feeds, optimised=True), plain)
    if not max(error, baseline_error) < TOLERANCE:
        raise RuntimeError(f"{name} {pattern}: errors {error:.1e} (ours), {baseline_error:.1e}")
    stage("timing")
    timed = compare(artifact, path, inputs=feeds, threads=threads)
    return Row(
        model=name,
        pattern=pattern,
        threads=threads,
        ours_ms=timed.ours_ms,
        baseline_ms=timed.baseline_ms,
        ratio=timed.ratio,
        ratio_low=timed.ratio_low,
        ratio_high=timed.ratio_high,
        error=error,
        baseline_error=baseline_error,
        compile_s=seconds,
        size_mb=compiled.size_bytes / 1e6,
    )


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    return "\n".join((*HEADER, *(row.markdown() for row in rows)))


def splice(page: str, rows: list[Row]) -> str:
    """Replaces what stands between the markers of a Markdown page by the table of `rows`.

    Raises:
        ValueError: The page lacks the markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page needs the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor()


def _say(progress: Progress, task: TaskID, job: str, stage: str) -> None:
    progress.update(task, description=f"{job}: {stage}")


def main(
    models: Annotated[str, typer.Option(help="Comma-separated names.")] = ",".join(spec.names()),
    patterns: Annotated[str, typer.Option(help="Comma-separated zeros.")] = "dense,4x1:0.8,4x1:0.9",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/benchmarks.json"),
    page: Annotated[Path | None, typer.Option(help="Markdown page with the markers.")] = None,
    folder: Annotated[Path, typer.Option(help="Models and artifacts.")] = Path("out/benchmarks"),
) -> None:
    """Measures models × patterns, prints a table, writes JSON and, if asked, a Markdown page."""
    console = Console(stderr=True)
    jobs = [(name, pattern) for name in models.split(",") for pattern in patterns.split(",")]
    rows: list[Row] = []
    with Progress(console=console) as progress:
        task = progress.add_task("", total=len(jobs))
        for name, pattern in jobs:
            say = partial(_say, progress, task, f"{name} {pattern}")
            rows.append(measure(name, pattern, threads, folder, say))
            progress.console.print(rows[-1].markdown(), highlight=False)
            progress.advance(task)
    print(table(rows))
    machine = {"processor": processor(), "system": platform.platform(), **tool_versions()}
    output.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine, "rows": [asdict(row) for row in rows]}
    output.write_text(json.dumps(report, indent=2) + "\n")
    if page is not None:
        page.write_text(splice(page.read_text(), rows))


if __name__ == "__main__":
    typer.run(main)
