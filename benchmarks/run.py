"""Measures sparsecc beside other runtimes: `make bench`, or `python -m benchmarks.run --help`.

Every engine runs the same weights, in the same run, with the same number of threads, taking turns;
a ratio is the median over paired rounds, against ONNX Runtime dense. The default is a choice that
takes about a quarter of an hour; the whole grid takes a night:

    python -m benchmarks.run --models all --patterns all --threads 1,2 \
        --peers mnn,openvino,litert,torch,deepsparse --page docs/performance.md

Rows are kept in the JSON file as they are measured, so a run that was interrupted goes on where it
stopped; a change of the compiler's sources, of a version or of the machine starts afresh.
DeepSparse is licensed for evaluation only: it is installed and run only when asked for by name.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import onnxruntime as ort
import typer
from rich.console import Console
from rich.progress import Progress, TaskID

import sparsecc
from benchmarks import measure, page, peers, plots, quantize, rows, spec
from benchmarks.peers import Peer
from benchmarks.rows import Report, Row

ALL = "all"
MODELS = "mobilenet_v1,mobilenet_v2,resnet50,bert_base"
PATTERNS = "4x1:0.8,4x1:0.9,unstructured:0.9,int8:4x4:0.8"
SHARES = (0.7, 0.8, 0.9, 0.95)
KINDS = ("4x1", "16x1", "unstructured")
INT8 = ("int8:4x4:0.8", "int8:4x4:0.9")
GRID = ("dense", "4x1:0.3", *(f"{kind}:{share}" for kind in KINDS for share in SHARES), *INT8)
PEERS = "mnn,openvino,litert"


@dataclass(frozen=True)
class Grid:
    """What to measure.

    Attributes:
        models: Their names.
        patterns: Zeros of each.
        threads: Numbers of threads.
        peers: Who runs beside sparsecc and ONNX Runtime.
        seconds: Time of each engine in a race.
        folder: Where models and artifacts go.
        keep: Whether they stay there.
    """

    models: Sequence[str]
    patterns: Sequence[str]
    threads: Sequence[int]
    peers: Sequence[Peer]
    seconds: float
    folder: Path
    keep: bool

    def missing(self, report: Report, model: str, pattern: str) -> list[int]:
        """Numbers of threads at which an engine has no row yet."""
        versions = {measure.BASELINE: ort.__version__, measure.OURS: sparsecc.__version__}
        engines = (versions | {peer.name: peer.version for peer in self.peers}).items()
        return [
            count
            for count in self.threads
            if any((model, pattern, count, *engine) not in report.rows for engine in engines)
        ]


def chosen_peers(names: str) -> list[Peer]:
    """Rows of the table by comma-separated names; "none" for none, "all" for all but optional ones.

    Raises:
        typer.BadParameter: There is no such peer.
    """
    table = peers.load()
    if names == ALL:
        return [peer for peer in table.values() if not peer.optional]
    wanted = [name for name in names.split(",") if name and name != "none"]
    unknown = [name for name in wanted if name not in table]
    if unknown:
        raise typer.BadParameter(f"no peer {', '.join(unknown)}; one of {', '.join(table)}")
    return [table[name] for name in wanted]


def fill(report: Report, grid: Grid, output: Path) -> None:
    """Measures what the report lacks and writes it after every race."""
    jobs = [
        (model, pattern)
        for model in grid.models
        for pattern in grid.patterns
        if not quantize.is_int8(pattern) or spec.reads_pictures(spec.load(model))
    ]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(jobs) * len(grid.threads))
        for model, pattern in jobs:
            counts = grid.missing(report, model, pattern)
            progress.advance(task, len(grid.threads) - len(counts))
            if not counts:
                continue
            say = partial(_say, progress, task, f"{model} {pattern}")
            prepared = measure.prepare(model, pattern, grid.folder, say)
            for count in counts:
                say = partial(_say, progress, task, f"{model} {pattern}, threads: {count}")
                found = measure.race(prepared, count, grid.peers, seconds=grid.seconds, say=say)
                report.add(found)
                report.save(output)
                line = f"{model} {pattern}, threads {count}: {verdict(found)}"
                progress.console.print(line, highlight=False, soft_wrap=True)
                progress.advance(task)
            if not grid.keep:
                shutil.rmtree(grid.folder)


def _say(progress: Progress, task: TaskID, job: str, stage: str) -> None:
    progress.update(task, description=f"{job}: {stage}")


def verdict(rows: Sequence[Row]) -> str:
    """The rows of one race in a line."""
    return ", ".join(
        f"{row.engine} " + ("–" if row.unavailable else f"{row.ms:.2f} ms ({row.ratio:.2f}×)")
        for row in rows
    )


def main(
    models: Annotated[str, typer.Option(help="Comma-separated names, or all.")] = MODELS,
    patterns: Annotated[str, typer.Option(help="Comma-separated zeros, or all.")] = PATTERNS,
    threads: Annotated[str, typer.Option(help="Comma-separated numbers.")] = "1,2",
    peer_names: Annotated[
        str, typer.Option("--peers", help="Comma-separated names, all (but optional ones) or none.")
    ] = PEERS,
    seconds: Annotated[float, typer.Option(min=0.05, help="Time of each engine in a race.")] = 2.0,
    fresh: Annotated[bool, typer.Option(help="Measure again what the JSON file has.")] = False,
    keep: Annotated[bool, typer.Option(help="Keep models, artifacts and conversions.")] = False,
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/benchmarks.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Models and artifacts.")] = Path("out/benchmarks"),
) -> None:
    """Measures models × patterns × threads on all engines; writes JSON, a page and a plot."""
    grid = Grid(
        models=spec.names() if models == ALL else models.split(","),
        patterns=GRID if patterns == ALL else patterns.split(","),
        threads=[int(count) for count in threads.split(",")],
        peers=chosen_peers(peer_names),
        seconds=seconds,
        folder=folder,
        keep=keep,
    )
    machine = rows.machine()
    report = Report(machine) if fresh else rows.resume(output, machine)
    fill(report, grid, output)
    titles = measure.TITLES | {name: peer.title for name, peer in peers.load().items()}
    found = rows.ordered(report.rows.values())
    section = page.section(found, titles, machine)
    print(section)
    if page_file is not None:
        page.put(page_file, page.NAME, section)
        plots.models(found, titles, page_file.with_name(page.PICTURE))
    if any(row.unavailable for row in found if row.engine in measure.TITLES):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
