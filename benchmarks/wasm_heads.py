"""What bringing heads together is worth in Node: `npm ci`, then `python -m benchmarks.wasm_heads`.

The layer of `benchmarks.heads` as a bundle, with heads as they lie and brought together. Both take
turns in one process, on one thread; the answers of both are checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx_ir as ir
import typer
from numpy.typing import NDArray

from benchmarks import heads, page, rows, web
from sparsecc import targets
from sparsecc.backends.bundle.build import build_bundle
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.backends.web.build import write_module
from sparsecc.passes.regions.whole import whole_of

NAME = "wasm-heads"
WAYS = (heads.APART, heads.TOGETHER)
CALLS = 3
"""Runs of a way in a turn."""


@dataclass(frozen=True)
class Row:
    """One mix of modes.

    Attributes:
        mix: Which heads.
        apart_ms: Median time of a run with heads as they lie.
        ms: The same with heads brought together.
        ratio: Median over turns of the first over the second; with quartiles.
        error: Largest difference to the library in ONNX Runtime, over the largest value.
    """

    mix: str
    apart_ms: float
    ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    error: float


def prepare(mix: str, folder: Path, seconds: float) -> Path:
    """Builds both bundles and writes the job of their race."""
    target, tag = targets.get("wasm"), mix.replace(" ", "-")
    x = np.random.default_rng(1).standard_normal((1, heads.GRID.tokens, heads.WIDTH))
    x = x.astype(np.float32)
    for number, way in enumerate(WAYS):
        graph, home = heads.carried_out(heads.MIXES[mix], way), folder / f"{tag}-{number}"
        home.mkdir(parents=True, exist_ok=True)
        whole = whole_of(graph, target)
        build_bundle(whole, target, "heads", home)
        write_module(home, "heads", whole.inputs, whole.outputs)
    job = folder / f"{tag}.json"
    given = {"name": "x", "type": "float32", "dims": x.shape, "file": f"{tag}.x.bin"}
    x.tofile(folder / given["file"])
    _expected(mix, x).tofile(folder / f"{tag}.expected.bin")
    engines = [
        {"name": way, "kind": "sparsecc", "folder": f"{tag}-{number}", "threads": 1}
        for number, way in enumerate(WAYS)
    ]
    content = {"engines": engines, "inputs": [given], "seconds": seconds, "calls": CALLS}
    job.write_text(json.dumps(content | {"expectedFile": f"{tag}.expected.bin"}))
    return job


def _expected(mix: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the library computes in ONNX Runtime."""
    proto = ir.to_proto(heads.in_regions(heads.MIXES[mix], heads.TOGETHER)).SerializeToString()
    library = build_library(targets.get("native"))
    session = open_session(proto, library=library, threads=1)
    found: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return found


def measure(mix: str, folder: Path, seconds: float) -> Row:
    """Races both ways.

    Raises:
        RuntimeError: A way does not run, or is off.
    """
    found = web.race(prepare(mix, folder, seconds), "node")
    for way, each in found.items():
        if "unavailable" in each or each["error"] > heads.CLOSE:
            raise RuntimeError(f"{mix}, {way}: {each.get('unavailable') or each['error']}")
    apart, together = (found[way]["rounds"] for way in WAYS)
    figures = rows.figures(together, apart)
    return Row(
        mix,
        apart_ms=rows.figures(apart, apart)["ms"],
        **{name: figures[name] for name in ("ms", "ratio", "ratio_low", "ratio_high")},
        error=max(each["error"] for each in found.values()),
    )


def section(found: Sequence[Row], processor: str) -> str:
    """The table: a line per mix."""
    lines = [["heads", *(f"{way}, ms" for way in WAYS), f"{WAYS[0]}, ×"]]
    lines.append(["---"] * len(lines[0]))
    for row in found:
        spread = f"{row.ratio:.2f} ({row.ratio_low:.2f}–{row.ratio_high:.2f})"
        lines.append([row.mix, f"{row.apart_ms:.1f}", f"{row.ms:.1f}", spread])
    return f"{processor}, Node, one thread.\n\n{page.markdown(lines)}"


def main(
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each way.")] = 5.0,
    folder: Annotated[Path, typer.Option(help="Bundles.")] = Path("out/wasm_heads"),
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/wasm_heads.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Measures mixes of modes; writes JSON and a page."""
    found = [measure(mix, folder, seconds) for mix in heads.MIXES]
    machine = rows.machine()
    text = section(found, str(machine["processor"]))
    content = {"machine": machine, "rows": [asdict(row) for row in found]}
    page.publish(NAME, text, content, output, page_file)


if __name__ == "__main__":
    typer.run(main)
