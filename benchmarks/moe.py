"""Measures mixtures of experts: `python -m benchmarks.moe --help`.

A router, softmax, the best two experts with gates that sum to one, and ReLU experts. In every turn
each engine runs once: ours in ONNX Runtime, ONNX Runtime's com.microsoft.MoE, all experts on all
tokens in ONNX Runtime, and a loop over experts in torch. A run is added to the JSON file, so that
one size can be measured at a time; the page shows all of the file.
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

from benchmarks import page, rows
from benchmarks.attention import PAUSE_S, Run, bound, numbers
from sparsecc import ops, targets
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.backends.onnxruntime.lower import lower
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions.form import FormRegions
from sparsecc.passes.weights.pack_mixtures import PackMixtures

CHOSEN = 2
FEATURES, HIDDEN = 512, 2048
"""Of a token and of an expert, if nothing else is asked for."""
NAME = "moe"
DENSE, BATCHED, THEIRS, LOOP, OURS = "dense", "batched", "microsoft", "torch", "sparsecc"
TITLES = {
    DENSE: "all experts, ONNX Runtime",
    BATCHED: "the same as batched products",
    THEIRS: "com.microsoft.MoE",
    LOOP: "torch, loop over experts",
}
CLOSE = 1e-4
"""Of the largest output."""
Weights = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Row:
    """One size.

    Attributes:
        experts: E.
        tokens: T.
        features: d.
        hidden: f.
        threads: Of every engine.
        touched: Experts that some token chose.
        ms: Engine → median time of a run.
        ratios: Engine → median and quartiles of its time / ours, turn by turn.
    """

    experts: int
    tokens: int
    features: int
    hidden: int
    threads: int
    touched: int
    ms: dict[str, float]
    ratios: dict[str, rows.Ratio]

    @property
    def size(self) -> tuple[int, ...]:
        """What tells rows apart."""
        return self.experts, self.features, self.hidden, self.threads, self.tokens


def weights_of(experts: int, features: int, hidden: int) -> Weights:
    """Random weights of a router ``[d, E]`` and of the experts."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)

    return {
        "router": normal(experts, features).T.copy(),
        "up": normal(experts, hidden, features),
        "down": normal(experts, features, hidden),
    }


def _router() -> list[onnx.NodeProto]:
    """Chosen experts, and their gates."""
    node = helper.make_node
    return [
        node("MatMul", ["x", "router"], ["scores"], "scores"),
        node("Softmax", ["scores"], ["shares"], "shares", axis=-1),
        node("TopK", ["shares", "k"], ["best", "experts"], "choose"),
        node("ReduceSum", ["best", "last"], ["sum"], "sum", keepdims=1),
        node("Div", ["best", "sum"], ["gates"], "gates"),
    ]


def model_of(nodes: Sequence[onnx.NodeProto], weights: Weights, tokens: int) -> onnx.ModelProto:
    """A model of nodes and arrays, from tokens ``x`` to ``y``."""
    shape = [tokens, len(weights["router"])]
    arrays = weights | {"k": np.array([CHOSEN]), "last": np.array([-1])}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    domains = {"": 17, ops.DOMAIN: ops.VERSION, "com.microsoft": 1}
    imports = [helper.make_opsetid(*each) for each in domains.items()]
    graph = helper.make_graph(nodes, "moe", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def our_model(weights: Weights, tokens: int) -> bytes:
    """The op with its router, packed and in a region."""
    read = ["x", "experts", "gates", "up", "down"]
    node = helper.make_node(ops.moe_variant("relu"), read, ["y"], "moe", domain=ops.DOMAIN)
    graph = ir.from_proto(model_of([*_router(), node], weights, tokens))
    target, regions = targets.get("native"), FormRegions(targets.get("native"))
    run([*pipeline.EXACT_BEFORE, PackMixtures(target), regions], graph, Context())
    assert regions.formed, "the mixture of experts is in no region"
    lower(graph)
    used = {value.name for each in graph.graph for value in each.inputs if value is not None}
    for name in set(graph.graph.initializers) - used:
        del graph.graph.initializers[name]
    made: bytes = ir.to_proto(graph).SerializeToString()
    return made


def their_model(weights: Weights, tokens: int) -> bytes:
    """ONNX Runtime's op; it takes scores, and makes gates of them."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "router"], ["scores"], "scores"),
        node(
            "MoE",
            ["x", "scores", "up", "", "down"],
            ["y"],
            "moe",
            domain="com.microsoft",
            k=CHOSEN,
            activation_type="relu",
            normalize_routing_weights=1,
        ),
    ]
    return model_of(nodes, weights, tokens).SerializeToString()


def _masked() -> list[onnx.NodeProto]:
    """Gates of all experts ``[T, E]``, zero for those that were not chosen."""
    node = helper.make_node
    return [
        *_router(),
        node("Shape", ["shares"], ["shape"], "shape"),
        node("ConstantOfShape", ["shape"], ["none"], "none"),
        node("ScatterElements", ["none", "experts", "gates"], ["mask"], "mask", axis=1),
    ]


def batched_model(weights: Weights, tokens: int) -> bytes:
    """All experts on all tokens: products over stacked weights, as an einsum is exported."""
    node = helper.make_node
    nodes = [
        *_masked(),
        node("Unsqueeze", ["x", "first"], ["x1"], "x1"),
        node("MatMul", ["x1", "ups"], ["h"], "up"),
        node("Relu", ["h"], ["a"], "act"),
        node("MatMul", ["a", "downs"], ["o"], "down"),
        node("Transpose", ["mask"], ["mask_t"], "turn", perm=[1, 0]),
        node("Unsqueeze", ["mask_t", "last"], ["m"], "m"),
        node("Mul", ["o", "m"], ["weighed"], "weigh"),
        node("ReduceSum", ["weighed", "first"], ["y"], "total", keepdims=0),
    ]
    arrays = {"router": weights["router"], "first": np.array([0])}
    arrays |= {f"{name}s": weights[name].swapaxes(1, 2).copy() for name in ("up", "down")}
    return model_of(nodes, arrays, tokens).SerializeToString()


def dense_model(weights: Weights, tokens: int) -> bytes:
    """All experts on all tokens: a layer of its own for each product."""
    node, experts = helper.make_node, len(weights["up"])
    arrays = {"router": weights["router"], "each": np.ones(experts, np.int64)}
    masks = [f"m{e}" for e in range(experts)]
    nodes = [*_masked(), node("Split", ["mask", "each"], masks, "split", axis=1)]
    for e in range(experts):
        arrays |= {f"{name}{e}": weights[name][e].T.copy() for name in ("up", "down")}
        nodes += [
            node("MatMul", ["x", f"up{e}"], [f"h{e}"], f"up{e}"),
            node("Relu", [f"h{e}"], [f"a{e}"], f"act{e}"),
            node("MatMul", [f"a{e}", f"down{e}"], [f"o{e}"], f"down{e}"),
            node("Mul", [f"o{e}", f"m{e}"], [f"w{e}"], f"weigh{e}"),
        ]
    nodes.append(node("Sum", [f"w{e}" for e in range(experts)], ["y"], "total"))
    return model_of(nodes, arrays, tokens).SerializeToString()


def loop_model(weights: Weights, tokens: int) -> bytes:
    """Each expert on its own tokens, as a loop over experts is exported: NonZero, gather, add."""
    node = helper.make_node
    arrays: Weights = {"router": weights["router"], "first": np.array([0]), "second": np.array([1])}
    nodes = [
        *_router(),
        node("Shape", ["x"], ["shape"], "shape"),
        node("ConstantOfShape", ["shape"], ["y0"], "nothing"),
    ]
    for e in range(len(weights["up"])):
        arrays |= {f"{name}{e}": weights[name][e].T.copy() for name in ("up", "down")}
        arrays[f"e{e}"] = np.array(e)
        total = "y" if e == len(weights["up"]) - 1 else f"y{e + 1}"
        nodes += [
            node("Equal", ["experts", f"e{e}"], [f"hit{e}"], f"hit{e}"),
            node("NonZero", [f"hit{e}"], [f"at{e}"], f"at{e}"),
            node("Transpose", [f"at{e}"], [f"slots{e}"], f"slots{e}", perm=[1, 0]),
            node("Gather", [f"at{e}", "first"], [f"row{e}"], f"row{e}", axis=0),
            node("Squeeze", [f"row{e}", "first"], [f"rows{e}"], f"rows{e}"),
            node("Gather", ["x", f"rows{e}"], [f"x{e}"], f"x{e}", axis=0),
            node("MatMul", [f"x{e}", f"up{e}"], [f"h{e}"], f"up{e}"),
            node("Relu", [f"h{e}"], [f"a{e}"], f"act{e}"),
            node("MatMul", [f"a{e}", f"down{e}"], [f"o{e}"], f"down{e}"),
            node("GatherND", ["gates", f"slots{e}"], [f"gate{e}"], f"gate{e}"),
            node("Unsqueeze", [f"gate{e}", "second"], [f"g{e}"], f"g{e}"),
            node("Mul", [f"o{e}", f"g{e}"], [f"w{e}"], f"weigh{e}"),
            node("Unsqueeze", [f"rows{e}", "second"], [f"to{e}"], f"to{e}"),
            node("ScatterND", [f"y{e}", f"to{e}", f"w{e}"], [total], f"add{e}", reduction="add"),
        ]
    return model_of(nodes, arrays, tokens).SerializeToString()


def torch_loop(weights: Weights, x: NDArray[np.float32]) -> Run:
    """As models are written: for each expert, its tokens, and their results added."""
    router, up, down = (torch.from_numpy(weights[name]) for name in ("router", "up", "down"))
    tokens = torch.from_numpy(x)

    def call() -> torch.Tensor:
        best, chosen = torch.softmax(tokens @ router, dim=-1).topk(CHOSEN, dim=-1)
        gates = best / best.sum(-1, keepdim=True)
        total = torch.zeros_like(tokens)
        for e in chosen.unique().tolist():
            rows_, slots = torch.where(chosen == e)
            hidden = torch.relu(torch.nn.functional.linear(tokens[rows_], up[e]))
            made = torch.nn.functional.linear(hidden, down[e])
            total.index_add_(0, rows_, made * gates[rows_, slots, None])
        return total

    return call


def engines(weights: Weights, x: NDArray[np.float32], threads: int) -> dict[str, Run]:
    """A run of every engine."""
    models: dict[str, Callable[[Weights, int], bytes]] = {
        DENSE: dense_model,
        BATCHED: batched_model,
        THEIRS: their_model,
    }
    library = build_library(targets.get("native"))
    mine = open_session(our_model(weights, len(x)), library=library, threads=threads)
    found = {OURS: bound(mine, {"x": x}), LOOP: torch_loop(weights, x)}
    for engine, model in models.items():
        session = open_session(model(weights, len(x)), threads=threads)
        found[engine] = bound(session, {"x": x})
    return found


def check(runs: dict[str, Run]) -> None:
    """Compute everything once, and compare with torch.

    Raises:
        RuntimeError: Something else comes out.
    """
    wanted = numbers(runs[LOOP]())
    for engine, call in runs.items():
        away = float(np.abs(numbers(call()) - wanted).max() / np.abs(wanted).max())
        if not away < CLOSE:
            raise RuntimeError(f"{engine} is {away:.1e} away from torch")


def measure(experts: int, tokens: int, features: int, hidden: int, threads: int, turns: int) -> Row:
    """All engines in turn."""
    torch.set_num_threads(threads)
    weights = weights_of(experts, features, hidden)
    x = np.random.default_rng(1).standard_normal((tokens, features), np.float32)
    best = np.argsort(x @ weights["router"], axis=1)[:, -CHOSEN:]
    with torch.inference_mode():
        runs = engines(weights, x, threads)
        check(runs)
        taken: dict[str, list[float]] = {engine: [] for engine in runs}
        for _ in range(turns):
            for engine, call in runs.items():
                if threads > 1:
                    time.sleep(PAUSE_S)
                start = time.perf_counter()
                call()
                taken[engine].append((time.perf_counter() - start) * 1e3)
    touched = len(np.unique(best))
    return row_of((experts, tokens, features, hidden, threads, touched), taken)


def row_of(sizes: tuple[int, int, int, int, int, int], taken: dict[str, list[float]]) -> Row:
    """The figures of all turns."""
    ratios = {engine: rows.over(taken[engine], taken[OURS]) for engine in TITLES}
    ms = {engine: float(np.median(times)) for engine, times in taken.items()}
    return Row(*sizes, ms, ratios)


def section(found: Sequence[Row], machine: dict[str, Any]) -> str:
    """The table: our time, and how many times faster than the others."""
    head = ["experts", "size", "tokens", "threads", "touched", "sparsecc ms", *TITLES.values()]
    lines = [head, ["---"] * len(head)]
    for row in found:
        cells = [rows.cell(row.ratios[engine]) for engine in TITLES]
        size = f"{row.features} → {row.hidden}"
        own = [str(row.experts), size, str(row.tokens), str(row.threads), str(row.touched)]
        lines.append([*own, f"{row.ms[OURS]:.2f}", *cells])
    table = page.markdown(lines)
    return (
        f"{machine['processor']}, {machine['cores']} cores; torch {torch.__version__}, ONNX "
        f"Runtime {ort.__version__}. The best {CHOSEN} experts of each token, ReLU between two "
        "products, router included. Under an engine stands its time over ours: the median of all "
        f"turns, and quartiles.\n\n{table}"
    )


def main(
    experts: Annotated[int, typer.Option(min=CHOSEN)] = 8,
    tokens: Annotated[int, typer.Option(min=1)] = 128,
    features: Annotated[int, typer.Option(min=1, help="Of a token.")] = FEATURES,
    hidden: Annotated[int, typer.Option(min=1, help="Of an expert.")] = HIDDEN,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    turns: Annotated[int, typer.Option(min=1)] = 15,
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/moe.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Measures one size on so many threads; writes JSON and a page."""
    new = measure(experts, tokens, features, hidden, threads, turns)
    found = rows.with_earlier(output, [new], lambda row: row.size)
    found.sort(key=lambda row: row.size)
    machine = rows.machine()
    text = section(found, machine)
    content = {"machine": machine, "rows": [asdict(row) for row in found]}
    page.publish(NAME, text, content, output, page_file)


if __name__ == "__main__":
    typer.run(main)
