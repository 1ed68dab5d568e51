"""Measures attention over kept blocks in Node: `npm ci`, `python -m benchmarks.wasm_attention`.

The step of the library, dense and over kept blocks, beside onnxruntime-web's dense attention
(MultiHeadAttention), which reads the same tokens as queries, keys and values. Least times of a few
runs on one thread, each in a few processes: now and then one is slow from its start to its end.

onnxruntime-web estimates 2 x tokens^2 x features of a head in 32 bits and refuses what does not fit
(`SafeInt<ptrdiff_t>` in its attention): with 64 features, 4,096 tokens.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from onnx import TensorProto, helper

from benchmarks import page, rows
from benchmarks.attention import BLOCK, DIM, HEADS, KEPT, blocks_of
from benchmarks.wasm_kernels import JS, VARIANTS, peak_gflops
from sparsecc.backends.kernels.attention import CONSTANT, NONE, Attention
from sparsecc.backends.kernels.execute import node_command
from sparsecc.backends.kernels.step_harness import (
    TIMED_KINDS,
    Step,
    Tensor,
    build_timed_steps,
    times_of,
)
from sparsecc.backends.kernels.table import ISAS

NAME = "wasm-attention"
PROCESSES = 4


@dataclass(frozen=True)
class Row:
    """One share of blocks on one instruction set.

    Attributes:
        isa: Instruction set.
        tokens: Queries and keys.
        kept: Share of blocks that is kept.
        ms: Least time of a run; web_ms the same of onnxruntime-web's dense attention, 0 where it
            does not run.
        peak_gflops: Measured peak of one core in the same engine.
    """

    isa: str
    tokens: int
    kept: float
    ms: float
    web_ms: float
    peak_gflops: float

    @property
    def share(self) -> float:
        """Share of the peak, on kept scores."""
        return 4 * self.kept * HEADS * self.tokens**2 * DIM / self.ms / 1e6 / self.peak_gflops


def step_of(tokens: int, kept: float) -> Step:
    """The step over random kept blocks; all of them are no blocks at all."""
    x = np.random.default_rng(0).standard_normal((1, tokens, HEADS * DIM), np.float32)
    settings = Attention(HEADS, HEADS, DIM, DIM**-0.5, hides=True)
    constants: list[np.ndarray] = []
    if kept < 1:
        blocks = blocks_of(tokens, kept)
        constants = [np.flatnonzero(blocks).astype(np.int32)]
        constants.append(np.array([*blocks.shape, BLOCK, BLOCK], np.int64))
    settings = replace(settings, blocks=CONSTANT if constants else NONE)
    inputs = [Tensor(x, x.shape)] * 3
    return Step("attention", settings.attributes, constants, inputs, kinds=TIMED_KINDS)


def ours_ms(tokens: int, kept: float, isa: str, runs: int) -> float:
    """Least time of the step in Node, ms."""
    step = replace(step_of(tokens, kept), repeat=runs)
    return float(times_of(step, node_command(build_timed_steps(isa))).min())


def web_ms(tokens: int, seconds: float, folder: Path) -> float:
    """Least time of onnxruntime-web's dense attention, ms.

    Raises:
        RuntimeError: It does not run; with what it says.
    """
    shape = [1, tokens, HEADS * DIM]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    node = helper.make_node(
        "MultiHeadAttention", ["x"] * 3, ["y"], domain="com.microsoft", num_heads=HEADS
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "attention", [x], [y])
    file, job = folder / "attention.onnx", folder / "job.json"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), file)
    job.write_text(json.dumps({"models": [str(file)], "dims": shape, "seconds": seconds}))
    command = ["node", str(JS), str(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=JS.parent)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        raise RuntimeError(" ".join(said) or done.stderr[-1000:])
    (least,) = json.loads(done.stdout)
    return float(least)


def section(found: Sequence[Row], processor: str) -> str:
    """The table: a line per instruction set and share of blocks."""
    head = ["", "kept", "ms", "of peak", "over ours dense", "over onnxruntime-web dense"]
    lines = [head, ["---"] * len(head)]
    for row in found:
        dense = next(each.ms for each in found if each.isa == row.isa and each.kept == 1)
        own = [f"{row.ms:.0f}", f"{row.share:.0%}", f"{dense / row.ms:.2f}×"]
        web = f"{row.web_ms / row.ms:.2f}×" if row.web_ms else "–"
        lines.append([ISAS[row.isa].suffix, f"{row.kept:.0%}", *own, web])
    table = page.markdown(lines)
    ms = found[0].web_ms
    takes = f"takes {ms:.0f} ms" if ms else "does not run"
    return (
        f"{processor}, Node, one thread: {HEADS} heads of {DIM} features, {found[0].tokens:,} "
        f"tokens, blocks of {BLOCK}×{BLOCK}; onnxruntime-web's MultiHeadAttention {takes}."
        f"\n\n{table}"
    )


def main(
    tokens: Annotated[int, typer.Option(help="Queries and keys, a multiple of 64.")] = 2048,
    runs: Annotated[int, typer.Option(min=1, help="Of each step.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of onnxruntime-web.")] = 5.0,
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path(
        "out/wasm_attention.json"
    ),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Measures shares of blocks × instruction sets; writes JSON and a page."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            web = web_ms(tokens, seconds, Path(folder))
        except RuntimeError as error:
            print(f"onnxruntime-web: {error}", file=sys.stderr)
            web = 0.0
    found = []
    for isa in VARIANTS:
        peak = peak_gflops(isa)
        for share in KEPT:
            exact = float(blocks_of(tokens, share).mean())
            ms = min(ours_ms(tokens, share, isa, runs) for _ in range(PROCESSES))
            found.append(Row(isa, tokens, exact, ms, web, peak))
    machine = rows.machine()
    text = section(found, str(machine["processor"]))
    content = {"machine": machine, "rows": [asdict(row) for row in found]}
    page.publish(NAME, text, content, output, page_file)


if __name__ == "__main__":
    typer.run(main)
