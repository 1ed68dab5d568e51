"""What a search of blocks costs beside dense attention: `python -m benchmarks.attention_search`.

Both in ONNX Runtime with the library, in turns, over the sizes of `benchmarks.attention`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.attention import BLOCK, DIM, HEADS, PAUSE_S, blocks_of, sparse_model
from sparsecc import ops, targets
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions.form import FormRegions

OPSET = 17


def search_model(tokens: int, sparsity: float = 0.8) -> bytes:
    """The op alone as a region: a call with an empty index searches."""
    side = tokens // BLOCK
    shape, info = [1, HEADS, tokens, DIM], helper.make_tensor_value_info
    blocks, grid = HEADS * side * side, np.array([HEADS, side, side, BLOCK, BLOCK])
    inputs = [info(name, TensorProto.FLOAT, shape) for name in "QK"]
    inputs += [info("index", TensorProto.INT32, [blocks]), info("step", TensorProto.INT64, [1])]
    how: dict[str, Any] = {"full": 0, "searches": [0], "sparsity": sparsity, "words": [0, 0]}
    read = ["Q", "K", "index", "step", "grid"]
    node = helper.make_node(
        ops.SEARCH, read, ["Y"], "search", domain=ops.DOMAIN, scale=DIM**-0.5, **how
    )
    made = info("Y", TensorProto.INT32, [blocks])
    graph = helper.make_graph(
        [node], "search", inputs, [made], [numpy_helper.from_array(grid, "grid")]
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(ops.DOMAIN, ops.VERSION)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=8))
    ops.attach_functions(model)
    run([FormRegions(targets.get("native"))], model, Context())
    found: bytes = ir.to_proto(model).SerializeToString()
    return found


def feeds(tokens: int) -> dict[str, NDArray[Any]]:
    """Tokens, and the index and step of a first call."""
    rng, side = np.random.default_rng(0), tokens // BLOCK
    made: dict[str, NDArray[Any]] = {
        name: rng.standard_normal((1, HEADS, tokens, DIM), np.float32) for name in "QKV"
    }
    index = np.full(HEADS * side * side, -1, np.int32)
    return made | {"index": index, "step": np.array([0])}


def measure(
    sessions: Mapping[str, ort.InferenceSession], given: dict[str, NDArray[Any]], turns: int
) -> dict[str, NDArray[np.float64]]:
    """Times of sessions in turn, ms."""
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(turns):
        for name, session in sessions.items():
            feed = {each.name: given[each.name] for each in session.get_inputs()}
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            session.run(None, feed)
            taken[name].append((time.perf_counter() - start) * 1e3)
    return {name: np.array(ms) for name, ms in taken.items()}


def main(
    tokens: Annotated[int, typer.Option(help="Queries and keys, a multiple of 64.")] = 4096,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    turns: Annotated[int, typer.Option(min=1)] = 9,
    beside: Annotated[
        Path | None, typer.Option(help="Another build of the library, whose search is timed too.")
    ] = None,
) -> None:
    """Measures one length on so many threads, and prints medians and quartiles."""
    library = build_library(targets.get("native"))
    dense, search = sparse_model(blocks_of(tokens, 1.0)), search_model(tokens)
    models = {"dense": (dense, library), "search": (search, library)}
    if beside is not None:
        models["search beside"] = (search, beside)
    sessions = {
        name: open_session(model, library=each, threads=threads)
        for name, (model, each) in models.items()
    }
    given = feeds(tokens)
    measure(sessions, given, 1)
    taken = measure(sessions, given, turns)
    for name, ms in taken.items():
        low, middle, high = np.quantile(ms / taken["dense"], (0.25, 0.5, 0.75))
        print(
            f"{tokens} tokens, {threads} threads, {name}: {np.median(ms):.1f} ms, "
            f"{middle:.2f} ({low:.2f}-{high:.2f}) of dense"
        )


if __name__ == "__main__":
    typer.run(main)
