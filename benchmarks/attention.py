"""Measures attention over kept blocks: `python -m benchmarks.attention --help`.

Eight heads of 64 features, blocks of 64 x 64, random ones kept and those of the diagonal. In every
turn each engine runs several times in a row, as in a model that runs again and again: ours in ONNX
Runtime, torch's scaled_dot_product_attention, compiled FlexAttention with the same blocks, and ONNX
Runtime's own ops. What is measured is added to the JSON file, so that one length and number of
threads can be measured at a time; the page shows all of the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from benchmarks import page, rows
from sparsecc import ops, targets
from sparsecc.backends.kernels import peak
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions.form import FormRegions

HEADS, DIM, BLOCK = 8, 64, 64
KEPT = (1.0, 0.5, 0.2, 0.1, 0.05)
NAME = "attention"
SDPA, FLEX, SPARSE, DENSE, OURS = "sdpa", "flex", "ort-sparse", "ort-dense", "sparsecc"
TITLES = {
    SDPA: "torch SDPA",
    FLEX: "FlexAttention, compiled",
    SPARSE: "ONNX Runtime SparseAttention",
    DENSE: "ONNX Runtime Attention",
}
CLOSE = 1e-4
PAUSE_S = 0.15
"""Before a row of runs: threads of the engine before wait busily for a while."""
LEAST_RUNS, ROW_S = 2, 0.2
"""A row of runs is as many as fill this time, behind one that wakes threads and fills caches."""
Floats = NDArray[np.float32]
Run = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One length, number of threads and share of blocks.

    Attributes:
        tokens: Queries and keys.
        threads: Of every engine.
        kept: Share of blocks that is kept; exact.
        ms: Engine → time of a run, the median over turns.
        ratios: Engine → quartiles of its time / ours, turn by turn.
        peak_gflops: Measured peak of one core.
    """

    tokens: int
    threads: int
    kept: float
    ms: dict[str, float]
    ratios: dict[str, tuple[float, float, float]]
    peak_gflops: float

    @property
    def share(self) -> float:
        """Our share of the peak of all threads, on kept scores."""
        flops = 4 * self.kept * HEADS * self.tokens**2 * DIM
        return flops / self.ms[OURS] / 1e6 / (self.peak_gflops * self.threads)


def blocks_of(tokens: int, kept: float) -> NDArray[np.bool_]:
    """Which blocks are kept, ``[heads, blocks, blocks]``: the diagonal, the others at random."""
    side = tokens // BLOCK
    order = np.random.default_rng(0).random((HEADS, side, side))
    order[:, np.arange(side), np.arange(side)] = -1
    found: NDArray[np.bool_] = order <= np.quantile(order, kept)
    return found


def sparse_model(blocks: NDArray[np.bool_]) -> bytes:
    """The op alone as a region."""
    _, side, _ = blocks.shape
    arrays = {
        "index": np.flatnonzero(blocks).astype(np.int32),
        "grid": np.array([HEADS, side, side, BLOCK, BLOCK]),
    }
    op_type = ops.attention_variant(blocks=True)
    rule = {"left": ops.UNBOUNDED, "right": ops.UNBOUNDED, "sinks": 0}
    proto = _model(op_type, ops.DOMAIN, side * BLOCK, arrays, scale=DIM**-0.5, **rule)
    proto.functions.append(ops.function(op_type, 23))
    graph = ir.from_proto(proto)
    run([FormRegions(targets.get("native"))], graph, Context())
    made: bytes = ir.to_proto(graph).SerializeToString()
    return made


def _model(
    op_type: str, domain: str, tokens: int, arrays: dict[str, NDArray[Any]], **attributes: Any
) -> onnx.ModelProto:
    shape = [1, HEADS, tokens, DIM]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "QKVY"]
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    read = ["Q", "K", "V", *arrays]
    node = helper.make_node(op_type, read, ["Y"], "attention", domain=domain, **attributes)
    imports = [helper.make_opsetid("", 23), helper.make_opsetid(ops.DOMAIN, ops.VERSION)]
    graph = helper.make_graph([node], "attention", ends[:3], ends[3:], constants)
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def ort_sparse_model(blocks: NDArray[np.bool_]) -> bytes:
    """ONNX Runtime's op, which is causal: of the kept blocks those at and below the diagonal."""
    side = blocks.shape[1]
    lower = blocks & np.tri(side, dtype=bool)
    counts = lower.sum(-1)
    columns = np.full((HEADS, int(counts.sum(-1).max())), -1, np.int32)
    for head in range(HEADS):
        found = np.nonzero(lower[head])[1]
        columns[head, : len(found)] = found
    tokens = side * BLOCK
    ends = np.concatenate([np.zeros((HEADS, 1), int), counts.cumsum(-1)], axis=-1)
    past = np.zeros((1, HEADS, tokens, DIM), np.float32)
    constants = {
        "rows": ends.astype(np.int32),
        "columns": columns,
        "total": np.array([tokens], np.int32),
        "lengths": np.array([tokens], np.int32),
    }
    shape = [1, tokens, HEADS * DIM]
    info = helper.make_tensor_value_info
    inputs = [info(name, TensorProto.FLOAT, shape) for name in "QKV"]
    inputs += [info(name, TensorProto.FLOAT, past.shape) for name in ("past_k", "past_v")]
    node = helper.make_node(
        "SparseAttention",
        ["Q", "K", "V", "past_k", "past_v", *constants],
        ["Y", "present_k", "present_v"],
        "attention",
        domain="com.microsoft",
        num_heads=HEADS,
        kv_num_heads=HEADS,
        sparse_block_size=BLOCK,
        scale=DIM**-0.5,
    )
    outputs = [info("Y", TensorProto.FLOAT, shape)]
    outputs += [info(name, TensorProto.FLOAT, past.shape) for name in ("present_k", "present_v")]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph([node], "attention", inputs, outputs, weights)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    made: bytes = helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
    return made


def bound(session: ort.InferenceSession, feeds: dict[str, Floats]) -> Run:
    """One run over memory that is there already; gives the first output, without a copy."""
    binding = session.io_binding()
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    made = []
    for each in session.get_outputs():
        room = ort.OrtValue.ortvalue_from_numpy(np.zeros(each.shape, np.float32))
        # A cache lies in one place before and after.
        made.append(values.get(each.name.replace("present", "past"), room))
        binding.bind_ortvalue_output(each.name, made[-1])

    def call(_kept: Any = values) -> ort.OrtValue:  # the binding itself keeps no input alive
        session.run_with_iobinding(binding)
        return made[0]

    return call


def numbers(result: Any) -> Floats:
    """What a run gave, as an array."""
    return result.numpy() if isinstance(result, ort.OrtValue) else np.asarray(result)


def flex(tokens: Sequence[torch.Tensor], blocks: NDArray[np.bool_], compiled: Any) -> Run:
    """FlexAttention over the same blocks, none of which it has to look into."""
    keep = torch.from_numpy(blocks)[None]
    count = keep.sum(-1).to(torch.int32)
    order = torch.argsort(keep.to(torch.int32), dim=-1, descending=True, stable=True)
    none = torch.zeros_like(count)
    mask = BlockMask.from_kv_blocks(
        none, order.to(torch.int32), count, order.to(torch.int32), BLOCK_SIZE=BLOCK
    )
    return lambda: compiled(*tokens, block_mask=mask)


def engines(length: int, threads: int, kept: Sequence[float]) -> dict[tuple[float, str], Run]:
    """A run of every engine for every share; those that skip nothing run once, for the share 1."""
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((1, HEADS, length, DIM), np.float32) for name in "QKV"}
    tokens = [torch.from_numpy(array) for array in feeds.values()]
    flat = {
        name: np.ascontiguousarray(each.swapaxes(1, 2)).reshape(1, length, -1)
        for name, each in feeds.items()
    }
    cache = {name: np.zeros((1, HEADS, length, DIM), np.float32) for name in ("past_k", "past_v")}
    library, compiled = build_library(targets.get("native")), torch.compile(flex_attention)
    dense = _model("Attention", "", length, {}, scale=DIM**-0.5).SerializeToString()
    sdpa = torch.nn.functional.scaled_dot_product_attention
    runs: dict[tuple[float, str], Run] = {
        (1.0, SDPA): lambda: sdpa(*tokens),
        (1.0, DENSE): bound(open_session(dense, threads=threads), feeds),
    }
    for share in kept:
        blocks = blocks_of(length, share)
        mine = open_session(sparse_model(blocks), library=library, threads=threads)
        runs[share, OURS] = bound(mine, feeds)
        runs[share, FLEX] = flex(tokens, blocks, compiled)
        if share < 1:
            theirs = open_session(ort_sparse_model(blocks), threads=threads)
            runs[share, SPARSE] = bound(theirs, flat | cache)
    return runs


def check(runs: dict[tuple[float, str], Run]) -> None:
    """Compute everything once, and compare with ours what computes the same.

    Raises:
        RuntimeError: Something else comes out.
    """
    for (share, engine), call in runs.items():
        result = numbers(call())
        if engine in (FLEX, SDPA, DENSE):
            away = float(np.abs(result - numbers(runs[share, OURS]())).max())
            if away > CLOSE:
                raise RuntimeError(f"{engine} at {share:.0%} is {away:.1e} away from ours")


def measure(length: int, threads: int, turns: int, peak_gflops: float) -> list[Row]:
    """All engines in turn, a row of runs each."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        runs = engines(length, threads, KEPT)
        check(runs)
        taken: dict[tuple[float, str], list[float]] = {each: [] for each in runs}
        for _ in range(turns):
            for each, call in runs.items():
                taken[each].append(row_of_runs(call))
    return [_row(length, threads, share, taken, peak_gflops) for share in KEPT]


def row_of_runs(call: Run) -> float:
    """Median time of runs in a row, ms; no other engine's threads wait busily beside them."""
    time.sleep(PAUSE_S)
    call()
    taken: list[float] = []
    while len(taken) < LEAST_RUNS or sum(taken) < ROW_S * 1e3:
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1e3)
    return float(np.median(taken))


def _row(
    length: int,
    threads: int,
    share: float,
    taken: dict[tuple[float, str], list[float]],
    peak_gflops: float,
) -> Row:
    mine = np.array(taken[share, OURS])
    ms, ratios = {OURS: float(np.median(mine))}, {}
    for engine in TITLES:
        times = taken.get((share, engine), taken.get((1.0, engine)))
        if times is None:
            continue
        ms[engine] = float(np.median(times))
        ratios[engine] = rows.over(times, mine)
    exact = float(blocks_of(length, share).mean())
    return Row(length, threads, exact, ms, ratios, peak_gflops)


def section(found: Sequence[Row], machine: dict[str, Any]) -> str:
    """The table: our time, its share of the peak, and how many times faster than the others."""
    head = ["tokens", "threads", "kept", "sparsecc ms", "of peak", *TITLES.values()]
    lines = [head, ["---"] * len(head)]
    for row in found:
        cells = [
            rows.cell(row.ratios[engine]) if engine in row.ratios else "–" for engine in TITLES
        ]
        own = [f"{row.ms[OURS]:.1f}", f"{row.share:.0%}"]
        lines.append([f"{row.tokens:,}", str(row.threads), f"{row.kept:.0%}", *own, *cells])
    table = page.markdown(lines)
    peaks = sorted({f"{row.peak_gflops:.0f}" for row in found})
    return (
        f"{machine['processor']}, {machine['cores']} cores, measured peak of one core "
        f"{' to '.join(peaks)} GFLOP/s; torch {torch.__version__}, ONNX Runtime {ort.__version__}. "
        f"{HEADS} heads of {DIM} features, blocks of {BLOCK}×{BLOCK}. Under an engine stands its "
        "time over ours: the median of all turns, and quartiles. torch's SDPA and ONNX Runtime's "
        "Attention compute all scores; ONNX Runtime's SparseAttention is causal, and has those of "
        f"the kept blocks that are at or below the diagonal.\n\n{table}"
    )


def main(
    tokens: Annotated[int, typer.Option(help="Queries and keys, a multiple of 64.")] = 4096,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    turns: Annotated[int, typer.Option(min=1)] = 7,
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/attention.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Measures one length on so many threads; writes JSON and a page."""
    peak_gflops = peak.Probe(peak.isas_here()[-1]).gflops()
    new = measure(tokens, threads, turns, peak_gflops)
    found = rows.with_earlier(output, new, lambda row: (row.tokens, row.threads))
    found.sort(key=lambda row: (row.tokens, row.threads, -row.kept))
    machine = rows.machine()
    text = section(found, machine)
    content = {"machine": machine, "rows": [asdict(row) for row in found]}
    page.publish(NAME, text, content, output, page_file)


if __name__ == "__main__":
    typer.run(main)
