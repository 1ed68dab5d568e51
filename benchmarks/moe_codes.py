"""Measures mixtures of experts with int8 and int4 weights: `python -m benchmarks.moe_codes --help`.

The model of benchmarks/moe.py. In every turn each engine runs once, on tokens that no turn before
had: ours with float32, int8 (a scale for each row) and int4 (one for 32 inputs) in ONNX Runtime,
its com.microsoft.QMoE with the same codes, com.microsoft.MoE, and all experts on all tokens in
float32. Between two runs of an engine all others read their weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import typer
from numpy.typing import NDArray
from onnx import helper

from benchmarks import moe, page, rows
from benchmarks.attention import PAUSE_S, numbers
from benchmarks.moe import CHOSEN, Weights
from sparsecc import targets
from sparsecc.backends.onnxruntime.library import build_library
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.formats.codes import Codes, dequantized, round_to_codes

NAME = "moe-codes"
GROUPS = {8: None, 4: 32}
"""Inputs that share a scale; None for all of a row."""
DENSE, FLOAT, THEIRS = "all experts", "float32", "com.microsoft.MoE"
CLOSE = {8: 2e-2, 4: 1e-4}
"""Of the largest output, between ours and QMoE; that of 8 bits may round activations."""


def ours(bits: int) -> str:
    """Name of our engine."""
    return f"int{bits}"


def peer(bits: int) -> str:
    """Name of ONNX Runtime's."""
    return f"QMoE int{bits}"


@dataclass(frozen=True)
class Row:
    """One size.

    Attributes:
        experts: E.
        tokens: T.
        features: d.
        hidden: f.
        threads: Of every engine.
        ms: Engine → median time of a run.
        ratios: Of the engines of ours: others → median and quartiles of their time / its, by turn.
    """

    experts: int
    tokens: int
    features: int
    hidden: int
    threads: int
    ms: dict[str, float]
    ratios: dict[str, dict[str, rows.Ratio]]

    @property
    def size(self) -> tuple[int, ...]:
        """What tells rows apart."""
        return self.experts, self.features, self.hidden, self.threads, self.tokens


def coded(weights: Weights, bits: int) -> dict[str, Codes]:
    """Codes of the experts' weights."""
    return {name: round_to_codes(weights[name], bits, GROUPS[bits]) for name in ("up", "down")}


def peer_model(router: NDArray[Any], codes: dict[str, Codes], bits: int, tokens: int) -> bytes:
    """com.microsoft.QMoE: unsigned codes, two of four bits in a byte, the first one low."""
    arrays: Weights = {"router": router}
    for name, each in codes.items():
        raised = (each.codes.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)
        halves = raised[..., 0::2] | (raised[..., 1::2] << 4) if bits == 4 else raised
        arrays[name] = halves
        arrays[f"{name}_scales"] = each.scales if GROUPS[bits] else each.scales[..., 0]
    node = helper.make_node
    block = {} if GROUPS[bits] is None else {"block_size": GROUPS[bits]}
    nodes = [
        node("MatMul", ["x", "router"], ["scores"], "scores"),
        node(
            "QMoE",
            ["x", "scores", "up", "up_scales", "", "down", "down_scales", ""],
            ["y"],
            "moe",
            domain="com.microsoft",
            k=CHOSEN,
            activation_type="relu",
            normalize_routing_weights=1,
            expert_weight_bits=bits,
            **block,
        ),
    ]
    return moe.model_of(nodes, arrays, tokens).SerializeToString()


Engine = Callable[[NDArray[np.float32]], Any]


def runner(model: bytes, threads: int, library: Path | None = None) -> Engine:
    """Runs a model on tokens that lie in the same place every time, as its result does."""
    session = open_session(model, library=library, threads=threads)
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    x, y = (ort.OrtValue.ortvalue_from_numpy(np.zeros(e.shape, np.float32)) for e in (given, made))
    binding = session.io_binding()
    binding.bind_ortvalue_input(given.name, x)
    binding.bind_ortvalue_output(made.name, y)

    def call(tokens: NDArray[np.float32]) -> ort.OrtValue:
        x.update_inplace(tokens)
        session.run_with_iobinding(binding)
        return y

    return call


def engines(weights: Weights, tokens: int, threads: int) -> dict[str, Engine]:
    """A run of every engine."""
    library = build_library(targets.get("native"))
    found = {
        FLOAT: runner(moe.our_model(weights, tokens), threads, library),
        DENSE: runner(moe.dense_model(weights, tokens), threads),
        THEIRS: runner(moe.their_model(weights, tokens), threads),
    }
    for bits in GROUPS:
        codes = coded(weights, bits)
        rounded = weights | {name: dequantized(each) for name, each in codes.items()}
        found[ours(bits)] = runner(moe.our_model(rounded, tokens), threads, library)
        theirs = peer_model(weights["router"], codes, bits, tokens)
        found[peer(bits)] = runner(theirs, threads)
    return found


def check(runs: dict[str, Engine], x: NDArray[np.float32]) -> None:
    """Compute everything once, and compare.

    Raises:
        RuntimeError: Something else comes out.
    """
    pairs = [(FLOAT, DENSE, moe.CLOSE), (FLOAT, THEIRS, moe.CLOSE)]
    pairs += [(ours(bits), peer(bits), CLOSE[bits]) for bits in GROUPS]
    for one, other, close in pairs:
        a, b = (numbers(runs[engine](x)).copy() for engine in (one, other))
        away = float(np.abs(a - b).max() / np.abs(b).max())
        if not away < close:
            raise RuntimeError(f"{one} is {away:.1e} away from {other}")


def measure(experts: int, tokens: int, features: int, hidden: int, threads: int, turns: int) -> Row:
    """All engines in turn."""
    weights = moe.weights_of(experts, features, hidden)
    rng = np.random.default_rng(1)
    runs = engines(weights, tokens, threads)
    check(runs, rng.standard_normal((tokens, features), np.float32))
    taken: dict[str, list[float]] = {engine: [] for engine in runs}
    for _ in range(turns):
        x = rng.standard_normal((tokens, features), np.float32)
        for engine, call in runs.items():
            if threads > 1:
                time.sleep(PAUSE_S)
            start = time.perf_counter()
            call(x)
            taken[engine].append((time.perf_counter() - start) * 1e3)
    return row_of((experts, tokens, features, hidden, threads), taken)


def row_of(sizes: tuple[int, int, int, int, int], taken: dict[str, list[float]]) -> Row:
    """The figures of all turns."""
    ratios = {
        ours(bits): {
            engine: rows.over(taken[engine], taken[ours(bits)])
            for engine in (DENSE, FLOAT, peer(bits))
        }
        for bits in GROUPS
    }
    ms = {engine: float(np.median(times)) for engine, times in taken.items()}
    return Row(*sizes, ms, ratios)


def section(found: list[Row], machine: dict[str, Any]) -> str:
    """The table: our time, and how many times faster than the others."""
    head = ["experts", "size", "tokens", "threads", "weights", "ms", DENSE, "float32, ours", "QMoE"]
    lines = [head, ["---"] * len(head)]
    for row in found:
        for engine, others in row.ratios.items():
            cells = map(rows.cell, others.values())
            size = f"{row.features} → {row.hidden}"
            own = [str(row.experts), size, str(row.tokens), str(row.threads), engine]
            lines.append([*own, f"{row.ms[engine]:.3f}", *cells])
    table = page.markdown(lines)
    return (
        f"{machine['processor']}, {machine['cores']} cores; ONNX Runtime {ort.__version__}. The "
        f"best {CHOSEN} experts of each token, ReLU between two products, router included. Under "
        "an engine stands its time over ours: the median of all turns, and quartiles. QMoE has "
        f"the same codes; all experts are float32.\n\n{table}"
    )


def main(
    experts: Annotated[int, typer.Option(min=CHOSEN)] = 8,
    tokens: Annotated[int, typer.Option(min=1)] = 1,
    features: Annotated[int, typer.Option(min=32, help="Of a token.")] = moe.FEATURES,
    hidden: Annotated[int, typer.Option(min=32, help="Of an expert.")] = moe.HIDDEN,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    turns: Annotated[int, typer.Option(min=1)] = 31,
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/moe_codes.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Measures one size on so many threads; writes JSON and a page."""
    new = measure(experts, tokens, features, hidden, threads, turns)
    found = rows.with_earlier(output, [new], lambda row: row.size)
    found.sort(key=lambda row: row.size)
    machine = rows.machine()
    content = {"machine": machine, "rows": [asdict(row) for row in found]}
    page.publish(NAME, section(found, machine), content, output, page_file)


if __name__ == "__main__":
    typer.run(main)
