"""Measures WebAssembly kernels alone, in Node: `npm ci`, then `python -m benchmarks.wasm_kernels`.

Layers of `kernels.txt` with zeros in 4x1 blocks, as steps of a region, against the peak of
multiply-adds that the same engine reaches, and against onnxruntime-web's dense layer: what two more
such layers, there and back, add to a model of one. Least times of many runs on one thread.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks import build, kernels, page, rows, spec
from benchmarks.spec import Layer
from sparsecc.backends.codegen.toolchain import Unit, build_cached, wasm_module
from sparsecc.backends.kernels.execute import execute, node_command
from sparsecc.backends.kernels.measured import step_of
from sparsecc.backends.kernels.sources import HERE
from sparsecc.backends.kernels.step_harness import TIMED_KINDS, build_timed_steps, times_of
from sparsecc.backends.kernels.table import ISAS
from sparsecc.cost.families import Call
from sparsecc.cost.roofline import Work
from sparsecc.cost.shapes import Shape
from sparsecc.targets import TARGETS

JS = Path(__file__).with_name("web") / "layers.mjs"
VARIANTS = {"wasm-simd128": "wasm", "wasm-relaxed": "wasm-relaxed"}
SHARES = (0.0, 0.5, 0.8, 0.9)
BLOCK = (4, 1)
NAME = "wasm-kernels"
RUN_MS = 300.0
GUESS_GFLOPS = 20.0


@dataclass(frozen=True)
class Row:
    """One layer with one share of zeros, on one instruction set.

    Attributes:
        layer: Its title.
        zeros: Share of its weight.
        isa: Instruction set.
        ms: Least time of a run; dense_ms the same of onnxruntime-web's dense layer.
        flops: Floating-point operations on non-zeros.
    """

    layer: str
    zeros: float
    isa: str
    ms: float
    dense_ms: float
    flops: int


def shape_of(model: Sequence[Layer], zeros: float) -> Shape:
    """A layer of one model of ``kernels.parse`` as the kernels see it."""
    sizes, layer = [int(side) for side in model[0].argument.split("x")], model[1]
    outputs = int(layer.argument)
    if layer.op == "linear":
        work, kernel, side = (
            Work(outputs, sizes[-1], sizes[-2], 1, sizes[-2] * sizes[-1], False),
            1,
            1,
        )
    else:
        kernel, side = layer.number("k", 1), sizes[2]
        cols, pixels = sizes[1] * kernel**2, side**2
        work = Work(outputs, cols, pixels, 1, sizes[1] * pixels, True)
    blocks = -(-work.rows // BLOCK[0]) * work.cols
    return Shape(Call(work, BLOCK, round(blocks * (1 - zeros))), kernel, 1, side)


def ours_ms(shape: Shape, isa: str) -> float:
    """Least time of a layer in Node, ms."""
    step = step_of(shape, TARGETS[VARIANTS[isa]], 0)
    work = shape.call.work
    guess = 2 * shape.call.blocks * BLOCK[0] * work.points / GUESS_GFLOPS / 1e6
    step = replace(step, kinds=TIMED_KINDS, repeat=int(np.clip(RUN_MS / guess, 20, 3000)))
    return float(times_of(step, node_command(build_timed_steps(isa))).min())


def dense_ms(model: Sequence[Layer], folder: Path, seconds: float) -> float:
    """Least time of a dense layer in onnxruntime-web, ms: half of what two more add."""
    sizes, layer = model[0].argument, model[1]
    back = int(sizes.split("x")[-1 if layer.op == "linear" else 1])
    options = " ".join(f"{key}={value}" for key, value in layer.options.items())
    lines = [f"{layer.op} l{i} {(layer.argument, back)[i % 2]} {options}" for i in range(3)]
    files = []
    for count in (1, 3):
        files.append(folder / f"{count}.onnx")
        text = "\n".join([f"input x {sizes}", *lines[:count]])
        onnx.save(build.build(spec.parse(text)), files[-1])
    job = folder / "job.json"
    dims = [int(side) for side in sizes.split("x")]
    told = {"models": [str(file) for file in files], "dims": dims, "seconds": seconds}
    job.write_text(json.dumps(told))
    done = subprocess.run(
        ["node", str(JS), str(job)], capture_output=True, text=True, check=True, cwd=JS.parent
    )
    one, three = json.loads(done.stdout)
    return float(three - one) / 2


def peak_gflops(isa: str) -> float:
    """Multiply-adds per second of one core in Node, in independent sums, GFLOP/s."""
    source, driver = HERE / "driver" / "peak.c", HERE / "driver" / "peak.mjs"
    unit = Unit(source.name, ISAS[isa].cpu, (f"VB={ISAS[isa].vector_bytes}",))
    exports = ["sc_peak", "sc_peak_flops"]
    sources = {source.name: source.read_text()}
    module = build_cached(wasm_module(f"peak-{isa}.wasm", sources, (unit,), exports))
    return float(execute(["node", "--no-warnings", str(driver), str(module)], b""))


def section(found: Sequence[Row], peaks: dict[str, float], processor: str) -> str:
    """The table: a line per layer, speed-up and share of the peak per share of zeros."""
    columns = [(isa, zeros) for isa in VARIANTS for zeros in SHARES]
    cells: dict[str, dict[tuple[str, float], str]] = {}
    for row in found:
        share = row.flops / row.ms / 1e6 / peaks[row.isa]
        text = f"{row.dense_ms / row.ms:.1f}× {share:.0%}"
        cells.setdefault(row.layer, {})[row.isa, row.zeros] = text
    head = ["layer", *(f"{ISAS[isa].suffix} {zeros:.0%}" for isa, zeros in columns)]
    lines = [head, ["---"] * len(head)]
    lines += [[layer, *(by.get(at, "–") for at in columns)] for layer, by in cells.items()]
    table = page.markdown(lines)
    measured = " and ".join(f"{peak:.0f} ({ISAS[isa].suffix})" for isa, peak in peaks.items())
    return (
        f"{processor}, Node, one thread, measured peak {measured} GFLOP/s: speed-up over "
        "onnxruntime-web's dense layer, and share of the peak on the non-zeros; zeros in 4x1 "
        f"blocks.\n\n{table}"
    )


def main(
    layers: Annotated[Path, typer.Option(help="Text file of layers.")] = kernels.LAYERS,
    seconds: Annotated[float, typer.Option(min=0.05, help="Time of each dense layer.")] = 1.0,
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/wasm_kernels.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Measures layers × zeros × instruction sets; writes JSON and a page."""
    models, found = kernels.parse(layers.read_text()), []
    peaks = {isa: peak_gflops(isa) for isa in VARIANTS}
    with (
        Progress(console=Console(stderr=True)) as progress,
        tempfile.TemporaryDirectory() as folder,
    ):
        task = progress.add_task("", total=len(models))
        for name, model in models.items():
            progress.update(task, description=name)
            dense = dense_ms(model, Path(folder), seconds)
            for isa in VARIANTS:
                for zeros in SHARES:
                    shape = shape_of(model, zeros)
                    flops = 2 * shape.call.blocks * BLOCK[0] * shape.call.work.points
                    found.append(Row(name, zeros, isa, ours_ms(shape, isa), dense, flops))
            progress.advance(task)
    machine = rows.machine()
    text = section(found, peaks, str(machine["processor"]))
    content = {"machine": machine, "peaks": peaks, "rows": [asdict(row) for row in found]}
    page.publish(NAME, text, content, output, page_file)


if __name__ == "__main__":
    typer.run(main)
