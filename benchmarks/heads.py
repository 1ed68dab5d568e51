"""What bringing heads of one order of tokens together is worth: `python -m benchmarks.heads`.

One layer of eight heads of 64 features over a video of 16 x 16 x 16 tokens, queries and keys with
a scale for each feature as behind a norm. Modes alternate from head to head. The same plan is
carried out with heads as they lie, so that they are gathered and put back; with heads brought
together; so, with the tokens of multi-diagonal heads gathered outside of the step; and so with a
call for every mode. Each runs several times in a row, and all of them in turn.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir
import typer
from onnx import TensorProto, helper, numpy_helper

from benchmarks import page, rows
from benchmarks.attention import bound, numbers, row_of_runs
from sparsecc import targets
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.capture import capture
from sparsecc.passes import pipeline
from sparsecc.passes.attention import plan
from sparsecc.passes.attention.blocks import keep_by_parts
from sparsecc.passes.attention.modes import Grid, Pattern
from sparsecc.passes.attention.plan import asked_for, carry_out
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions import attention as region
from sparsecc.passes.regions.form import FormRegions
from sparsecc.search.attentions import PlanAttention, PlanHead

GRID = Grid(16, 16, 16)
HEADS, DIM, WIDTH, BLOCK = 8, 64, 64, 64
HALF_WIDTHS = {"diagonal": 3, "multi-diagonal": 3}
STRIPES = (5, 20, 33, 41, 50, 60)
MIXED = ("diagonal", "multi-diagonal") * 2
MIXES = {
    "half multi-diagonal": (*MIXED, "vertical", "multi-diagonal", "vertical", "multi-diagonal"),
    "one full": (*MIXED, "vertical", "multi-diagonal", "vertical", "full"),
    "one multi-diagonal": (*["diagonal"] * 3, "multi-diagonal", *["vertical"] * 4),
}
NAME = "heads"
APART, OUTSIDE, TOGETHER = "as they lie", "together, tokens gathered", "together"
BY_MODE = "together, a call for each mode"
WAYS = (APART, OUTSIDE, TOGETHER, BY_MODE)
CLOSE = 1e-4


@dataclass(frozen=True)
class Row:
    """One mix of modes with one number of threads.

    Attributes:
        mix: Which heads.
        threads: Of ONNX Runtime.
        ms: Way → median time of a run.
        ratios: Way → quartiles of its time over that of heads brought together, turn by turn.
    """

    mix: str
    threads: int
    ms: dict[str, float]
    ratios: dict[str, tuple[float, float, float]]


def layer() -> onnx.ModelProto:
    """Tokens [1, 4096, 64] through one attention."""
    rng, wide = np.random.default_rng(0), HEADS * DIM
    arrays: dict[str, Any] = {
        name: rng.standard_normal((WIDTH, wide)).astype(np.float32) / WIDTH**0.5
        for name in ("wq", "wk", "wv")
    }
    arrays["wo"] = rng.standard_normal((wide, WIDTH)).astype(np.float32) / wide**0.5
    arrays["norm"] = rng.uniform(0.5, 1.5, DIM).astype(np.float32)
    arrays["scale"] = np.float32(DIM**-0.5)
    arrays["split"] = np.array([1, GRID.tokens, HEADS, DIM])
    arrays["flat"] = np.array([1, GRID.tokens, wide])
    nodes = []
    for part in "qkv":
        nodes += [
            helper.make_node("MatMul", ["x", f"w{part}"], [f"{part}1"], f"{part}_product"),
            helper.make_node("Reshape", [f"{part}1", "split"], [f"{part}2"], f"{part}_split"),
            helper.make_node("Transpose", [f"{part}2"], [f"{part}3"], perm=[0, 2, 1, 3]),
        ]
    nodes += [
        helper.make_node("Mul", ["q3", "norm"], ["q"], "q_norm"),
        helper.make_node("Mul", ["k3", "norm"], ["k"], "k_norm"),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], "scores"),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"], "scaled"),
        helper.make_node("Softmax", ["scaled"], ["p"], "softmax", axis=-1),
        helper.make_node("MatMul", ["p", "v3"], ["o"], "attention"),
        helper.make_node("Transpose", ["o"], ["o2"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["o2", "flat"], ["o3"], "merge"),
        helper.make_node("MatMul", ["o3", "wo"], ["y"], "out"),
    ]
    info = functools.partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
    shape = [1, GRID.tokens, WIDTH]
    weights = [numpy_helper.from_array(np.asarray(each), name) for name, each in arrays.items()]
    graph = helper.make_graph(
        nodes, "heads", [info("x", shape=shape)], [info("y", shape=shape)], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def planned(name: str, modes: Sequence[Any]) -> PlanAttention:
    """What every head keeps."""
    heads = []
    for mode in modes:
        stripes = STRIPES if mode == "vertical" else ()
        setting = len(stripes) or HALF_WIDTHS.get(mode, 0)
        heads.append(PlanHead(mode=mode, setting=setting, keys=stripes, density=0.1))
    return PlanAttention(
        name=name,
        grid=GRID.spec,
        block=BLOCK,
        heads=tuple(heads),
        time_weight=0.5,
        most_loss=1.0,
        predicted_ms=1.0,
        dense_ms=2.0,
    )


def carried_out(modes: Sequence[str], way: str) -> ir.Model:
    """The layer over blocks, in one of the ways, without regions."""
    model = capture(layer())
    run(pipeline.EXACT_BEFORE, model, Context())
    (found,), _ = asked_for(model, GRID.spec, Context())
    entry = planned(found.name, modes)

    changed: dict[str, Any] = {}
    if way == APART:
        changed["fuse_heads"] = lambda _, apart, __: {
            name: list(range(len(heads))) for name, heads in apart.items()
        }
    if way == BY_MODE:
        changed["keep"] = lambda op, patterns: keep_by_parts(op, patterns, _alike(patterns))
    with contextlib.ExitStack() as stack:
        for what, how in changed.items():
            stack.enter_context(mock.patch.object(plan, what, how))
        carry_out(model, [entry], Context())
    return model


def in_regions(modes: Sequence[str], way: str) -> ir.Model:
    """The same as ONNX Runtime runs it."""
    model = carried_out(modes, way)
    with contextlib.ExitStack() as stack:
        if way == OUTSIDE:
            stack.enter_context(mock.patch.object(region, "_reordered", return_value=[]))
        run([FormRegions(targets.get("native"))], model, Context())
    return model


def _alike(patterns: Sequence[Pattern]) -> list[list[int]]:
    """Heads that keep the same blocks in the same order of tokens."""
    found: dict[tuple[bytes, bool], list[int]] = {}
    for at, each in enumerate(patterns):
        found.setdefault((each.kept.tobytes(), each.order is None), []).append(at)
    return list(found.values())


def measure(mix: str, threads: int, turns: int) -> Row:
    """All ways in turn."""
    x = np.random.default_rng(1).standard_normal((1, GRID.tokens, WIDTH)).astype(np.float32)
    library, runs = build_library(targets.get("native")), {}
    for way in WAYS:
        proto = ir.to_proto(in_regions(MIXES[mix], way)).SerializeToString()
        runs[way] = bound(open_session(proto, library=library, threads=threads), {"x": x})
    results = [numbers(call()) for call in runs.values()]
    away = max(float(np.abs(each - results[0]).max()) for each in results)
    if away > CLOSE:
        raise RuntimeError(f"the ways are {away:.1e} apart")
    taken = {way: np.empty(0) for way in WAYS}
    for _ in range(turns):
        for way, call in runs.items():
            taken[way] = np.append(taken[way], row_of_runs(call))
    ms = {way: float(np.median(each)) for way, each in taken.items()}
    ratios = {way: rows.over(each, taken[TOGETHER]) for way, each in taken.items()}
    return Row(mix, threads, ms, ratios)


def section(found: Sequence[Row], machine: dict[str, Any]) -> str:
    """The table: times, and those of the other ways over heads brought together."""
    head = ["heads", "threads", *(f"{way}, ms" for way in WAYS), *(f"{way}, ×" for way in WAYS)]
    lines = [head, ["---"] * len(head)]
    for row in found:
        ratios = map(rows.cell, row.ratios.values())
        times = (f"{row.ms[way]:.1f}" for way in WAYS)
        lines.append([row.mix, str(row.threads), *times, *ratios])
    table = page.markdown(lines)
    mixes = "; ".join(f"{name}: {', '.join(modes)}" for name, modes in MIXES.items())
    return f"{machine['processor']}, {machine['cores']} cores. {mixes}.\n\n{table}"


def main(
    turns: Annotated[int, typer.Option(min=1)] = 5,
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/heads.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Measures mixes of modes × threads; writes JSON and a page."""
    found = [measure(mix, threads, turns) for mix in MIXES for threads in (1, 2)]
    machine = rows.machine()
    text = section(found, machine)
    content = {"machine": machine, "rows": [asdict(row) for row in found]}
    page.publish(NAME, text, content, output, page_file)


if __name__ == "__main__":
    typer.run(main)
