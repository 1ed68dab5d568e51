"""Measures our WebAssembly beside onnxruntime-web and TensorFlow.js, in Node and in Chromium.

Every engine runs the same weights in one process or page on one thread, taking turns (`race.js`);
a ratio is the median over rounds of onnxruntime-web's time over the engine's. TensorFlow.js, whose
WebAssembly runs XNNPACK, takes models that are a chain of convolutions.

    npm ci
    python -m benchmarks.web --page docs/web.md          # three models: ten minutes
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from rich.console import Console
from rich.progress import Progress

import sparsecc
from benchmarks import build, measure, page, rows, spec
from benchmarks.spec import Layer
from sparsecc.errors import BackendError

HERE = Path(__file__).parent / "web"
MODELS = "mobilenet_v1,resnet50,minilm_l6"
PATTERNS = "dense,4x1:0.8,4x1:0.9"
HOSTS = {"node": "node.mjs", "chromium": "browser.mjs"}
SIMD = {"simd128": "", "relaxed": " (relaxed SIMD)"}
BASELINE, OURS, THIRD = "onnxruntime-web", "sparsecc", "tfjs"
ENGINES = (BASELINE, OURS, THIRD)
NAME = "web"
CALLS = 5
LIMIT_S = 900.0
TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Row(rows.Timed):
    """An engine in one host.

    Attributes:
        host: A key of :data:`HOSTS`.
        simd: Instructions of ours.
    """

    host: str
    simd: str = ""


def prepare(
    model: str,
    pattern: str,
    folder: Path,
    seconds: float,
    layers: Sequence[Layer] | None = None,
) -> Path:
    """Compiles a model and writes the job of its race.

    Args:
        model: A model of `benchmarks/models`, or what to call `layers`.
        pattern: Its zeros.
        folder: Of all jobs; a page is served from there.
        seconds: About how long to measure each engine.
        layers: A model that has no file of its own.

    Returns:
        The job's file, in `folder`.
    """
    layers = list(layers or spec.load(model))
    path = build.write(model, pattern, folder / "models", layers)
    tag = f"{model}-{pattern.replace(':', '-')}"
    sparsecc.compile(path, target="wasm", sparsity="existing").save(folder / tag)
    feeds = build.inputs(layers)
    reference = measure.unoptimised(path, feeds)
    engines: list[dict[str, Any]] = [
        {"name": BASELINE, "kind": "onnxruntime", "model": path.relative_to(folder).as_posix()},
        {"name": OURS, "kind": "sparsecc", "folder": tag},
    ]
    if chained := chain(onnx.load(path)):
        steps, weights = chained
        weights.tofile(folder / f"{tag}.chain.bin")
        third = {"kind": "tensorflow", "chain": steps, "weightsFile": f"{tag}.chain.bin"}
        engines.append({"name": THIRD} | third)
    inputs = [
        {
            "name": name,
            "type": str(value.dtype),
            "dims": value.shape,
            "file": _kept(value, folder / f"{tag}.{number}.bin"),
        }
        for number, (name, value) in enumerate(feeds.items())
    ]
    job = folder / f"{tag}.json"
    content = {
        "engines": [engine | {"threads": 1} for engine in engines],
        "inputs": inputs,
        "expectedFile": _kept(reference.astype(np.float32), folder / f"{tag}.expected.bin"),
        "seconds": seconds,
        "calls": CALLS,
    }
    job.write_text(json.dumps(content))
    return job


def _kept(array: NDArray[Any], path: Path) -> str:
    array.tofile(path)
    return path.name


def chain(model: onnx.ModelProto) -> tuple[list[dict[str, Any]], NDArray[np.float32]] | None:
    """A model as TensorFlow.js takes it, channels last, if it is convolutions one after another.

    Returns:
        Its steps, which say where in the numbers their filters and biases are; None where the model
        is something else.
    """
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    steps: list[dict[str, Any]] = []
    parts: list[NDArray[np.float32]] = []

    def put(array: NDArray[Any]) -> int:
        at = sum(part.size for part in parts)
        parts.append(np.ascontiguousarray(array, np.float32).ravel())
        return at

    value = model.graph.input[0].name
    for node in model.graph.node:
        if node.op_type not in STEPS or value not in node.input or len(model.graph.input) > 1:
            return None
        value = node.output[0]
        if node.op_type == "Relu":
            steps[-1]["activation"] = "relu"
        elif node.op_type in ("Conv", "Gemm"):
            settings = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            op, axes = _layout(node.op_type, settings)
            weight, bias = (constants[name] for name in node.input[1:3])
            filters = weight.transpose(axes)
            step = {"op": op, "at": put(filters), "size": filters.size, "shape": filters.shape}
            step |= {"biasAt": put(bias), "biasSize": bias.size}
            if node.op_type == "Conv":
                step |= {"stride": settings["strides"][0], "pad": settings["pads"][0]}
            steps.append(step)
    return steps, np.concatenate(parts)


STEPS = ("Conv", "Relu", "GlobalAveragePool", "ReduceMean", "Flatten", "Gemm", "Identity")
"""Of a chain; the mean is part of the linear layer behind it."""


def _layout(op_type: str, settings: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    """What TensorFlow.js calls a layer, and the order of its filter's axes there."""
    if op_type == "Gemm":
        return "linear", (1, 0)
    return ("depthwise", (2, 3, 0, 1)) if settings["group"] > 1 else ("conv", (2, 3, 1, 0))


def race(job: Path, host: str) -> dict[str, dict[str, Any]]:
    """What `race.js` found, by engine.

    Raises:
        BackendError: Node or the browser failed; with the end of what it said.
    """
    result = job.with_suffix(f".{host}.result.json")
    command = ["node", HERE / HOSTS[host], job.resolve(), result.resolve()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise BackendError(
            f"{HOSTS[host]} failed: {done.stderr.strip()[-1000:]}",
            fix="install Node 20 and Chromium, and run `npm ci`",
        )
    found: dict[str, dict[str, Any]] = json.loads(result.read_text())
    return found


def found_rows(found: dict[str, dict[str, Any]], identity: dict[str, str]) -> list[Row]:
    """Rows of a race. An engine that is off has no figures; without the baseline none has."""
    timed = {
        name: each["rounds"]
        for name, each in found.items()
        if "unavailable" not in each and each["error"] < TOLERANCE
    }
    out = []
    for name, each in found.items():
        if name not in timed or BASELINE not in timed:
            why = each.get("unavailable") or f"wrong answer: off by {each['error']:.1e}"
            out.append(Row(**identity, engine=name, unavailable=measure.one_line(Exception(why))))
            continue
        row = Row(
            **identity,
            **rows.figures(timed[name], timed[BASELINE]),
            engine=name,
            simd=each.get("simd", ""),
            error=each["error"],
        )
        out.append(row)
    return out


def section(given: Sequence[Row], sizes: dict[str, dict[str, int]], where: str) -> str:
    """The tables of a page."""
    head = ["model", "zeros", "in", f"{BASELINE} ms", f"{OURS} ms", "speed-up", "quartiles"]
    lines = [[*head, f"{THIRD} ms"]]
    lines.append(["---"] * len(lines[0]))
    cells: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in given:
        cells.setdefault((row.model, row.pattern, row.host), {})[row.engine] = row
    for (model, pattern, host), engines in cells.items():
        ours = engines[OURS]
        times = [_ms(engines.get(engine)) for engine in (BASELINE, OURS, THIRD)]
        speed = f"**{ours.ratio:.2f}**" if ours.ms else "–"
        spread = f"{ours.ratio_low:.2f}–{ours.ratio_high:.2f}" if ours.ms else "–"
        place = host + SIMD.get(ours.simd, "")
        lines.append([model, pattern, place, *times[:2], speed, spread, times[2]])
    files = [["model", "zeros", "model.wasm", "model.relaxed.wasm", "weights.bin"], ["---"] * 5]
    for tag, parts in sizes.items():
        files.append([*tag.split(" "), *(f"{parts[name] / 1e3:,.0f} KB" for name in files[0][2:])])
    reasons = [
        f"- {row.engine} on {row.model} {row.pattern} in {row.host}: {row.unavailable}"
        for row in given
        if row.unavailable
    ]
    return "\n\n".join(
        part
        for part in (where, page.markdown(lines), page.markdown(files), "\n".join(reasons))
        if part
    )


def _ms(row: Row | None) -> str:
    return f"{row.ms:.2f}" if row is not None and row.ms else "–"


def engines_used() -> str:
    """Versions of the peers and of the hosts."""
    package = json.loads((HERE.parents[1] / "package.json").read_text())["devDependencies"]
    peers = {BASELINE: "onnxruntime-web", THIRD: "@tensorflow/tfjs-backend-wasm"}
    versions = [f"{name} {package[of]}" for name, of in peers.items()]
    for command in (["node", "--version"], ["chromium", "--version"]):
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            versions += [
                f"{command[0]} {each}" for each in re.findall(r"\d[\d.]+", done.stdout)[:1]
            ]
    return ", ".join(versions)


def main(
    models: Annotated[str, typer.Option(help="Comma-separated names.")] = MODELS,
    patterns: Annotated[str, typer.Option(help="Comma-separated zeros.")] = PATTERNS,
    hosts: Annotated[str, typer.Option(help="Comma-separated: node, chromium.")] = ",".join(HOSTS),
    seconds: Annotated[float, typer.Option(min=0.05, help="Time of each engine in a race.")] = 3.0,
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/web.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Models and artifacts.")] = Path("out/web"),
) -> None:
    """Measures models × patterns × hosts; writes JSON and a page."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(model, zeros) for model in models.split(",") for zeros in patterns.split(",")]
    made: list[Row] = []
    sizes: dict[str, dict[str, int]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(jobs) * len(hosts.split(",")))
        for model, zeros in jobs:
            progress.update(task, description=f"{model} {zeros}: compiling")
            job = prepare(model, zeros, folder, seconds)
            artifact = job.with_suffix("")
            names = ("model.wasm", "model.relaxed.wasm", "weights.bin")
            sizes[f"{model} {zeros}"] = {each: (artifact / each).stat().st_size for each in names}
            for host in hosts.split(","):
                progress.update(task, description=f"{model} {zeros}: {host}", advance=1)
                identity = {"model": model, "pattern": zeros, "host": host}
                made += found_rows(race(job, host), identity)
                content = {"machine": rows.machine(), "sizes": sizes}
                rows.keep(output, content | {"rows": [asdict(row) for row in made]})
    machine = rows.machine()
    where = f"{machine['processor']}, one thread. {engines_used()}."
    shown = section(made, sizes, where)
    print(shown)
    if page_file is not None:
        page.put(page_file, NAME, shown)


if __name__ == "__main__":
    typer.run(main)
