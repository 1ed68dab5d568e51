"""Measures mixtures of experts in Node: `npm ci`, then `python -m benchmarks.wasm_moe`.

The model of `benchmarks.moe`, router included, in the forms that it is exported in, each run by
onnxruntime-web; and compiled by us from the first of them, which is recognised. All take turns in
one process, on one thread; the answers of all are checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer

import sparsecc
from benchmarks import moe, page, rows, web
from sparsecc.backends.onnxruntime.run import open_session

NAME = "wasm-moe"
EACH = "loop"
FORMS = {
    moe.DENSE: moe.dense_model,
    moe.BATCHED: moe.batched_model,
    EACH: moe.loop_model,
    moe.THEIRS: moe.their_model,
}
TITLES = moe.TITLES | {EACH: "loop over experts"}
CALLS = 3
"""Runs of an engine in a turn."""


@dataclass(frozen=True)
class Row:
    """One size.

    Attributes:
        experts: E.
        tokens: T.
        simd: Instructions of ours.
        ms: Median time of a run of ours.
        ratios: Form → median and quartiles of onnxruntime-web's time / ours; none where that does
            not run.
    """

    experts: int
    tokens: int
    simd: str
    ms: float
    ratios: dict[str, rows.Ratio]

    @property
    def size(self) -> tuple[int, ...]:
        """What tells rows apart."""
        return self.experts, self.tokens


def prepare(experts: int, tokens: int, folder: Path, seconds: float) -> Path:
    """Writes the models and the job of their race."""
    weights, tag = moe.weights_of(experts, moe.FEATURES, moe.HIDDEN), f"{experts}-{tokens}"
    folder.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(1).standard_normal((tokens, moe.FEATURES), np.float32)
    engines = []
    for form, made in FORMS.items():
        (folder / f"{tag}-{form}.onnx").write_bytes(made(weights, tokens))
        engines.append({"name": form, "kind": "onnxruntime", "model": f"{tag}-{form}.onnx"})
    source = folder / f"{tag}-{moe.DENSE}.onnx"
    compiled = sparsecc.compile(onnx.load(source), target="wasm", sparsity="existing")
    assert any("experts" in row.pattern for row in compiled.report.rows), "it was not recognised"
    compiled.save(folder / tag)
    engines.append({"name": moe.OURS, "kind": "sparsecc", "folder": tag})
    x.tofile(folder / f"{tag}.x.bin")
    expected = open_session(source, threads=1).run(None, {"x": x})[0]
    expected.tofile(folder / f"{tag}.expected.bin")
    given = {"name": "x", "type": "float32", "dims": x.shape, "file": f"{tag}.x.bin"}
    content = {
        "engines": [engine | {"threads": 1} for engine in engines],
        "inputs": [given],
        "expectedFile": f"{tag}.expected.bin",
        "seconds": seconds,
        "calls": CALLS,
    }
    job = folder / f"{tag}.json"
    job.write_text(json.dumps(content))
    return job


def measure(experts: int, tokens: int, folder: Path, seconds: float) -> Row:
    """Races all of them.

    Raises:
        RuntimeError: Ours does not run, or one is off.
    """
    found = web.race(prepare(experts, tokens, folder, seconds), "node")
    for name, each in found.items():
        absent = "unavailable" in each
        if (absent and name == moe.OURS) or (not absent and each["error"] > moe.CLOSE):
            raise RuntimeError(f"{name}: {each.get('unavailable') or each['error']}")
    ours, ratios = found[moe.OURS], {}
    for form in FORMS:
        if "unavailable" not in found[form]:
            figures = rows.figures(ours["rounds"], found[form]["rounds"])
            ratios[form] = (figures["ratio"], figures["ratio_low"], figures["ratio_high"])
    ms = rows.figures(ours["rounds"], ours["rounds"])["ms"]
    return Row(experts, tokens, ours["simd"], ms, ratios)


def section(found: Sequence[Row], processor: str) -> str:
    """The table: a line per size."""
    lines = [["experts", "tokens", "sparsecc ms", *(TITLES[form] for form in FORMS)]]
    lines.append(["---"] * len(lines[0]))
    for row in found:
        cells = [rows.cell(row.ratios[form]) if form in row.ratios else "–" for form in FORMS]
        lines.append([str(row.experts), str(row.tokens), f"{row.ms:.2f}", *cells])
    simd = f" ({found[0].simd})" if found else ""
    return (
        f"{processor}, Node, one thread{simd}: {moe.FEATURES} → {moe.HIDDEN}, the best "
        f"{moe.CHOSEN} experts of each token. Under a form stands onnxruntime-web's time on it "
        f"over ours: the median of all turns, and quartiles.\n\n{page.markdown(lines)}"
    )


def main(
    experts: Annotated[int, typer.Option(min=moe.CHOSEN)] = 8,
    tokens: Annotated[int, typer.Option(min=1)] = 128,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each engine.")] = 5.0,
    folder: Annotated[Path, typer.Option(help="Models.")] = Path("out/wasm_moe"),
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/wasm_moe.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Measures one size; writes JSON and a page with all sizes so far."""
    new = measure(experts, tokens, folder, seconds)
    found = rows.with_earlier(output, [new], lambda row: row.size)
    found.sort(key=lambda row: row.size)
    machine = rows.machine()
    text = section(found, str(machine["processor"]))
    content = {"machine": machine, "rows": [asdict(row) for row in found]}
    page.publish(NAME, text, content, output, page_file)


if __name__ == "__main__":
    typer.run(main)
