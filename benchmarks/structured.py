"""Times of factors of structured weights in ONNX Runtime: `python -m benchmarks.structured --help`.

A square weight of side n as a dense product, as factors in the nodes that sparsecc writes, and as
two standard ops that could stand for a structure as well: DFT, and a convolution of one channel.
Sessions of a row take turns on one thread; a figure is the median over rounds.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks import page
from benchmarks.rows import keep
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.formats.structures import Structure
from sparsecc.machine import processor
from sparsecc.passes.structured.base import Fit
from sparsecc.passes.structured.rewrite import replace_layer
from sparsecc.passes.weights.layers import find_layers

NAME = "structured"
SIZES = "512x16,1024x16,2048x16,512x128,1024x128,2048x128,4096x128"
CONV_MOST = 1024
"""Side beyond which a convolution of one channel is not tried: it takes seconds."""
OPSET, IR_VERSION = 17, 8

Array = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Row:
    """Medians of one size, ms.

    Attributes:
        side: Inputs and outputs of the weight.
        tokens: Vectors that it multiplies.
        ms: Title of a column → time; columns that were not tried are missing.
    """

    side: int
    tokens: int
    ms: Mapping[str, float]


def dense(side: int, tokens: int) -> ir.Model:
    """One product with a weight of normal numbers."""
    weight = np.random.default_rng(0).normal(size=(side, side)) / side**0.5
    return _model("MatMul", {"w": weight.astype(np.float32)}, [tokens, side])


def factors(structure: Structure, side: int, tokens: int) -> ir.Model:
    """The nodes of a structure in the place of that product, with factors of normal numbers."""
    model = dense(side, tokens)
    (layer,) = find_layers(model).layers
    rng = np.random.default_rng(1)
    made = tuple(rng.normal(size=shape) / side**0.25 for shape in _shapes(structure, side))
    replace_layer(layer, Fit(structure, made, 0.0))
    return model


def transform(side: int, tokens: int) -> ir.Model:
    """One real part of a Fourier transform, as a Monarch product."""
    small, large = _sides(side)
    return factors(Structure("monarch", (small, large, 2), strided=True), side, tokens)


def low_rank(side: int, tokens: int) -> ir.Model:
    """Half of the parameters as two thin matrices."""
    return factors(Structure("rank", (side // 4,)), side, tokens)


def kronecker(side: int, tokens: int) -> ir.Model:
    """One Kronecker product of about square matrices."""
    small, _ = _sides(side)
    return factors(Structure("kronecker", (small, small, 1)), side, tokens)


def monarch(side: int, tokens: int) -> ir.Model:
    """Half of the parameters in four by four blocks."""
    return factors(Structure("monarch", (4, 4, side // 16)), side, tokens)


def dft(side: int, tokens: int) -> ir.Model:
    """Both parts of a Fourier transform of real numbers, as the op of that name."""
    node = helper.make_node("DFT", ["x"], ["y"], "layer", axis=1, onesided=1)
    return _captured([node], {}, [tokens, side, 1])


def convolution(side: int, tokens: int) -> ir.Model | None:
    """A Toeplitz weight as a convolution of one channel; None where it would take seconds."""
    if side > CONV_MOST:
        return None
    taps = np.random.default_rng(2).normal(size=(1, 1, 2 * side - 1)).astype(np.float32)
    return _model("Conv", {"w": taps}, [tokens, 1, side], pads=[side - 1, side - 1])


COLUMNS: Mapping[str, Callable[[int, int], ir.Model | None]] = {
    "dense": dense,
    "transform": transform,
    "DFT op": dft,
    "rank n/4": low_rank,
    "Kronecker": kronecker,
    "Monarch, 50 %": monarch,
    "Conv, 1 channel": convolution,
}


def measure(side: int, tokens: int, seconds: float) -> Row:
    """Time every column for about so many seconds each."""
    rng = np.random.default_rng(3)
    runs: dict[str, Callable[[], object]] = {}
    for title, build in COLUMNS.items():
        model = build(side, tokens)
        if model is not None:
            session = open_session(ir.to_proto(model).SerializeToString(), threads=1)
            shape = [int(each) for each in session.get_inputs()[0].shape]
            runs[title] = _bound(session, rng.normal(size=shape).astype(np.float32))
    times: dict[str, list[float]] = {title: [_timed(run)] for title, run in runs.items()}
    times = {title: [_timed(run)] for title, run in runs.items()}  # the first were cold
    repeats = {title: max(1, round(0.02 / once)) for title, (once,) in times.items()}
    end = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < end or len(times["dense"]) < 4:
        for title, run in runs.items():
            times[title].append(min(_timed(run) for _ in range(repeats[title])))
    return Row(side, tokens, {title: 1e3 * float(np.median(t[1:])) for title, t in times.items()})


def table(rows: list[Row]) -> str:
    """Markdown: the machine, and a line per size."""
    lines = [
        f"{processor()}, one thread, ONNX Runtime {ort.__version__}.",
        "",
        f"| n | tokens | {' | '.join(COLUMNS)} |",
        f"|{'---|' * (len(COLUMNS) + 2)}",
    ]
    for row in rows:
        cells = [f"{row.ms[title]:.3g}" if title in row.ms else "–" for title in COLUMNS]
        lines.append(f"| {row.side} | {row.tokens} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _sides(side: int) -> tuple[int, int]:
    """Two powers of two whose product is the side, which is one."""
    small = 1 << (side.bit_length() - 1) // 2
    return small, side // small


def _shapes(structure: Structure, side: int) -> list[tuple[int, ...]]:
    """Of the factors of a square weight, as the form lays them out."""
    sizes = structure.sizes
    if structure.form == "rank":
        return [(side, sizes[0]), (sizes[0], side)]
    if structure.form == "kronecker":
        m, n, terms = sizes
        return [(terms, m, n), (terms, side // m, side // n)]
    k, j, b = sizes
    return [(k, j, b, side // k), (j, side // j, k, b)]


def _model(op: str, arrays: dict[str, Array], shape: list[int], **attributes: Any) -> ir.Model:
    node = helper.make_node(op, ["x", *arrays], ["y"], "layer", **attributes)
    return _captured([node], arrays, shape)


def _captured(nodes: list[onnx.NodeProto], arrays: dict[str, Array], shape: list[int]) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    proto = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def _bound(session: ort.InferenceSession, x: Array) -> Callable[[], object]:
    return lambda: session.run(None, {"x": x})


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(
    sizes: Annotated[str, typer.Option(help="Comma-separated SIDExTOKENS, powers of two.")] = SIZES,
    seconds: Annotated[float, typer.Option(help="For each figure.")] = 1.0,
    out: Annotated[Path, typer.Option("-o", help="JSON; other sizes in it are kept.")] = Path(
        "out/structured.json"
    ),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Measures, prints a table and writes it into a page."""
    known = [Row(**each) for each in json.loads(out.read_text())] if out.exists() else []
    rows = {(row.side, row.tokens): row for row in known}
    for size in sizes.split(","):
        side, tokens = map(int, size.split("x"))
        rows[side, tokens] = measure(side, tokens, seconds)
        print(rows[side, tokens], flush=True)
    ordered = sorted(rows.values(), key=lambda row: (row.tokens, row.side))
    keep(out, [dataclasses.asdict(row) for row in ordered])
    section = table(ordered)
    print(section)
    if page_file is not None:
        page.put(page_file, NAME, section)


if __name__ == "__main__":
    typer.run(main)
