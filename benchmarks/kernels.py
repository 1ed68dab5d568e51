"""Measures layers alone against the measured peak: `python -m benchmarks.kernels --help`.

Each layer of `kernels.txt` is compiled as a model of one node and takes turns with ONNX Runtime's
dense node. GFLOP/s count multiply-adds on non-zeros only; the peak is measured on the same core
(`peak.c`). Times are the least of many runs: what the kernel can do, not what a busy machine
leaves.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from onnx import numpy_helper
from rich.console import Console
from rich.progress import Progress

from benchmarks import measure, page, plots, rows, spec
from benchmarks.spec import Layer
from sparsecc.artifact import open_artifact
from sparsecc.backends.kernels import peak
from sparsecc.report.rows import DENSE_KERNEL

LAYERS = Path(__file__).with_name("kernels.txt")
PATTERNS = "4x1:0.8,4x1:0.9,16x1:0.8,16x1:0.9,unstructured:0.8,unstructured:0.9"
NAME = "kernels"
PICTURE = "kernels.svg"
WEIGHT = "layer.weight"


@dataclass(frozen=True)
class KernelRow:
    """One layer with one pattern of zeros, on one thread.

    Attributes:
        layer: Its title.
        pattern: Its zeros.
        kernel: What the compiler chose.
        ms: Least time of one run; dense_ms the same of ONNX Runtime's dense node.
        flops: Floating-point operations on non-zeros.
        bytes: Bytes of input, output and non-zero weights.
        peak_gflops: Measured peak of one core.
        unavailable: Why there are no figures; empty when there are.
    """

    layer: str
    pattern: str
    kernel: str = ""
    ms: float = 0.0
    dense_ms: float = 0.0
    flops: int = 0
    bytes: int = 0
    peak_gflops: float = 0.0
    unavailable: str = ""

    @property
    def gflops(self) -> float:
        """GFLOP/s on the non-zeros."""
        return self.flops / self.ms / 1e6

    @property
    def share(self) -> float:
        """Share of the measured peak."""
        return self.gflops / self.peak_gflops

    @property
    def sparse(self) -> bool:
        """Whether there are figures of a kernel that skips zeros."""
        return not self.unavailable and self.kernel != DENSE_KERNEL


def parse(text: str) -> dict[str, list[Layer]]:
    """Layers of a file by title, each as a model of an input and one layer."""
    models: dict[str, list[Layer]] = {}
    for line in text.splitlines():
        if words := line.split("#")[0].split():
            shape, op, outputs, *options = words
            model = spec.parse(f"input x {shape}\n{op} layer {outputs} {' '.join(options)}")
            models[title(model)] = model
    return models


def title(model: Sequence[Layer]) -> str:
    """What tables call a layer, such as "3×3, 64 → 64 @ 56²" or "128 tokens, 768 → 3072"."""
    shape = [int(side) for side in model[0].argument.split("x")]
    layer = model[1]
    if layer.op == "linear":
        tokens = shape[-2]
        return f"{tokens} token{'s' if tokens > 1 else ''}, {shape[-1]} → {layer.argument}"
    size, stride = layer.number("k", 1), layer.number("s", 1)
    step = f", stride {stride}" if stride > 1 else ""
    return f"{size}×{size}{step}, {shape[1]} → {layer.argument} @ {shape[2]}²"


def measure_layer(
    name: str, model: list[Layer], pattern: str, peak_gflops: float, seconds: float, folder: Path
) -> KernelRow:
    """Compiles one layer and times it beside the dense node."""
    stem = re.sub(r"\W+", "-", name)
    prepared = measure.prepare(stem, pattern, folder, _silent, model)
    baseline, ours = measure.race(prepared, 1, [], seconds=seconds, say=_silent)
    reason = baseline.unavailable or ours.unavailable
    if reason:
        return KernelRow(name, pattern, unavailable=reason)
    weights = {w.name: w for w in onnx.load(prepared.path).graph.initializer}
    nonzeros = int(np.count_nonzero(numpy_helper.to_array(weights[WEIGHT])))
    inputs = sum(value.size for value in prepared.feeds.values())
    return KernelRow(
        layer=name,
        pattern=pattern,
        kernel=_kernel(prepared.artifact),
        ms=ours.least_ms,
        dense_ms=baseline.least_ms,
        flops=2 * nonzeros * _positions(prepared.reference.shape),
        bytes=4 * (inputs + prepared.reference.size + nonzeros),
        peak_gflops=peak_gflops,
    )


def _positions(shape: tuple[int, ...]) -> int:
    """Pixels or tokens of an output."""
    channels = shape[1] if len(shape) == 4 else shape[-1]
    return int(np.prod(shape)) // channels


def _kernel(artifact: Path) -> str:
    """Name of the kernel that runs the only layer of an artifact."""
    (layer,) = open_artifact(artifact).layers
    return str(layer["kernel"])


def _silent(stage: str) -> None:
    pass


def section(found: Sequence[KernelRow], peak_gflops: float, processor: str) -> str:
    """The table: a line per layer, speed-up and share of peak per pattern."""
    patterns = list(dict.fromkeys(row.pattern for row in found))
    cells: dict[str, dict[str, str]] = {}
    for row in found:
        text = f"{row.dense_ms / row.ms:.1f}× {row.share:.0%}" if row.sparse else "dense"
        cells.setdefault(row.layer, {})[row.pattern] = "–" if row.unavailable else text
    lines = [["layer", *patterns], ["---"] * (len(patterns) + 1)]
    lines += [[layer, *(by.get(p, "–") for p in patterns)] for layer, by in cells.items()]
    table = page.markdown(lines)
    what = (
        f"{processor}, measured peak of one core {peak_gflops:.0f} GFLOP/s: speed-up over ONNX "
        'Runtime\'s dense node and share of that peak on the non-zeros; "dense" where the '
        "compiler keeps ONNX Runtime's kernel."
    )
    reasons = {f"- {r.layer}, {r.pattern}: {r.unavailable}" for r in found if r.unavailable}
    return "\n\n".join(filter(None, [what, f"![Roofline]({PICTURE})", table, *sorted(reasons)]))


def points(found: Sequence[KernelRow]) -> dict[str, list[tuple[float, float]]]:
    """(FLOP per byte, GFLOP/s) of the sparse rows by pattern."""
    out: dict[str, list[tuple[float, float]]] = {}
    for row in found:
        if row.sparse:
            out.setdefault(row.pattern, []).append((row.flops / row.bytes, row.gflops))
    return out


def main(
    patterns: Annotated[str, typer.Option(help="Comma-separated zeros.")] = PATTERNS,
    layers: Annotated[Path, typer.Option(help="Text file of layers.")] = LAYERS,
    seconds: Annotated[float, typer.Option(min=0.05, help="Time of each side.")] = 0.5,
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/kernels.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Models and artifacts.")] = Path("out/kernels"),
) -> None:
    """Measures layers × patterns on one thread; writes JSON, a page and a roofline plot."""
    probe = peak.Probe(peak.isas_here()[-1])
    peak_gflops = probe.gflops()
    bandwidths = {name: probe.gbs(size) for name, size in peak.LEVELS.items()}
    models = parse(layers.read_text())
    jobs = [(name, pattern) for name in models for pattern in patterns.split(",")]
    found: list[KernelRow] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(jobs))
        for name, pattern in jobs:
            progress.update(task, description=f"{name}, {pattern}")
            found.append(measure_layer(name, models[name], pattern, peak_gflops, seconds, folder))
            progress.advance(task)
    shutil.rmtree(folder)
    machine = rows.machine()
    text = section(found, peak_gflops, str(machine["processor"]))
    print(text)
    report = {
        "machine": machine,
        "peak_gflops": peak_gflops,
        "bandwidth_gbs": bandwidths,
        "rows": [asdict(row) for row in found],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if page_file is not None:
        page.put(page_file, NAME, text)
        plots.roofline(points(found), peak_gflops, bandwidths, page_file.with_name(PICTURE))


if __name__ == "__main__":
    typer.run(main)
