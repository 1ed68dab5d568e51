"""TVM libraries beside what they stand beside: `python -m benchmarks.tvm_library`.

With zeros, the library takes turns with the artifact for ONNX Runtime of the same plan; without
zeros, with what TVM's own pipeline makes of the same file. All on one thread. Rows of other models
that the JSON file has of the same machine and sources stay in the table.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime as ort
import typer
from rich.progress import track

import sparsecc
from benchmarks import build, page, rows, spec
from benchmarks.measure import PAUSE_S, relative_error, unoptimised
from sparsecc.backends.tvm.load import load
from sparsecc.bench.compare import ENGINE
from sparsecc.bench.process import Worker
from sparsecc.bench.turns import take_turns
from sparsecc.bench.worker import Job
from sparsecc.manifest import MODEL_NAME

NAME = "tvm"
STOCK = Path(__file__).with_name("tvm_stock.py")
CASES: Mapping[str, tuple[str, ...]] = {
    "mobilenet_v1": ("dense", "4x1:0.8"),
    "bert_base": ("4x1:0.8",),
}
"""Model of `benchmarks/models` → its zeros."""
ONE_THREAD = {"TVM_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Row:
    """A TVM library and what took turns with it.

    Attributes:
        model: Name of the model.
        pattern: Its zeros.
        beside: What took turns with the library.
        ms: Median time of a run of the library.
        beside_ms: Likewise, of the other.
        ratio: Median over rounds of the library's time over the other's; then the quartiles.
        ratio_low: The lower one.
        ratio_high: The upper one.
        error: Largest difference of the library to ONNX Runtime without graph optimisation, over
            the largest value of the latter.
    """

    model: str
    pattern: str
    beside: str
    ms: float
    beside_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    error: float


def measure(model: str, pattern: str, folder: Path, seconds: float) -> Row:
    """Compiles a model both ways and lets the two take turns for about so many seconds."""
    source, feeds = build.write(model, pattern, folder), build.inputs(spec.load(model))
    inputs = folder / "inputs.npz"
    np.savez(inputs, *feeds.values())

    def job(path: Path, library: Path | None = None) -> Job:
        return Job(
            model=str(path),
            library=None if library is None else str(library),
            threads=1,
            names=list(feeds),
            inputs=str(inputs),
            outputs=str(folder / "outputs.npz"),
        )

    environment = os.environ | ONE_THREAD
    ours = folder / "tvm"
    sparsecc.compile(source, backend="tvm", sparsity="existing").save(ours)
    if pattern == "dense":
        beside = f"TVM {load().__version__}, its own pipeline"
        other, runtime = job(source), STOCK
    else:
        beside, artifact = f"ONNX Runtime {ort.__version__} with our kernels", folder / "ort"
        made = sparsecc.compile(source, sparsity="existing")
        made.save(artifact)
        library = made.manifest.library
        other = job(artifact / MODEL_NAME, None if library is None else artifact / library)
        runtime = None
    with ExitStack() as stack:
        left, right = (
            stack.enter_context(Worker(title, each, runtime=by, environment=environment))
            for title, each, by in ((str(ours), job(ours), ENGINE), (beside, other, runtime))
        )
        rounds = list(take_turns((left, right), seconds, pause_s=PAUSE_S))
    medians = np.array([[np.median(times) for times in turns] for turns in rounds])
    low, ratio, high = np.percentile(medians[:, 0] / medians[:, 1], (25, 50, 75)).tolist()
    mine, theirs = np.median(medians, 0).tolist()
    error = relative_error(next(iter(left.outputs.values())), unoptimised(source, feeds))
    return Row(model, pattern, beside, mine, theirs, ratio, low, high, error)


def section(found: Sequence[Row], processor: str) -> str:
    """The table: a line per row."""
    lines = [
        ["model", "zeros", "TVM library ms", "beside it", "ms", "library / other", "quartiles"]
    ]
    lines.append(["---"] * len(lines[0]))
    for row in found:
        times = f"{row.ms:.2f}", row.beside, f"{row.beside_ms:.2f}"
        spread = f"{row.ratio_low:.3f}–{row.ratio_high:.3f}"
        lines.append([row.model, row.pattern, *times, f"{row.ratio:.3f}", spread])
    worst = max(row.error for row in found)
    return "\n".join(
        [
            f"{processor}, one thread, in turns; medians.",
            "",
            *(f"| {' | '.join(line)} |" for line in lines),
            "",
            f"Largest relative error of a library: {worst:.1e}.",
        ]
    )


def kept(output: Path, machine: Mapping[str, object]) -> dict[tuple[str, str], Row]:
    """Rows of a file by model and zeros, if they are of this machine and code."""
    content = json.loads(output.read_text()) if output.exists() else {}
    if content.get("machine") != machine:
        return {}
    return {(row["model"], row["pattern"]): Row(**row) for row in content["rows"]}


def main(
    model: Annotated[str, typer.Option(help="One of the table's models, or all.")] = "all",
    seconds: Annotated[float, typer.Option(min=0.05, help="Time of each race.")] = 8.0,
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/tvm.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Measures the libraries; writes JSON and a table."""
    if model not in ("all", *CASES):
        raise typer.BadParameter(f"no model {model}; one of {', '.join(CASES)}")
    models = CASES if model == "all" else (model,)
    jobs = [(each, pattern) for each in models for pattern in CASES[each]]
    machine = rows.machine()
    found = kept(output, machine)
    for each, pattern in track(jobs, "measuring"):
        with tempfile.TemporaryDirectory(prefix="sparsecc-bench-") as folder:
            found[each, pattern] = measure(each, pattern, Path(folder), seconds)
    text = section(list(found.values()), str(machine["processor"]))
    content = {"machine": machine, "rows": [asdict(row) for row in found.values()]}
    page.publish(NAME, text, content, output, page_file)


if __name__ == "__main__":
    typer.run(main)
