"""The torch interpreter on four trained models: `python -m benchmarks.interpreter --help`.

Every model is run in canonical form. What it gives must equal ONNX Runtime on the processor, and
every layer that can be pruned must get a finite gradient; then a forward pass, and one with its
backward pass, are timed in single precision and under autocast to bfloat16.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from examples.imagenet_cnn import compare as photographs
from examples.ocr.lines import make_lines
from examples.ocr.recognizer import package_model
from examples.sentence_embeddings import compare as sentences
from examples.sentence_embeddings.encoder import tokenize
from examples.sentence_embeddings.encoder import trained as encoder
from sparsecc.capture import capture
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.weights.layers import find_layers
from sparsecc.torch import Interpreter
from sparsecc.torch.layers import weight_name

Feed = dict[str, NDArray[Any]]
TOLERANCE = 1e-4
"""Of the largest output above 1, as the detector sees next to nothing in noise."""


def _recogniser(batch: int) -> tuple[ir.Model, Feed]:
    lines, _ = make_lines(batch, seed=1, split="test")
    return capture(package_model()), {"x": lines}


def _detector(batch: int) -> tuple[ir.Model, Feed]:
    pages = np.random.default_rng(0).standard_normal((max(1, batch // 8), 3, 320, 320))
    return capture(package_model("ch_PP-OCRv4_det_infer.onnx")), {"x": pages.astype(np.float32)}


def _encoder(batch: int) -> tuple[ir.Model, Feed]:
    feed = tokenize(sentences.sentences("test")[:batch], sentences.TEST_TOKENS)
    example = {name: torch.from_numpy(array) for name, array in feed.items()}
    return capture(encoder(), example, sentences.DYNAMIC), feed


def _classifier(batch: int) -> tuple[ir.Model, Feed]:
    crops = photographs.crops(photographs.TEST, photographs.CROPS, seed=0)[:batch]
    free = ({0: torch.export.Dim("batch")},)
    return capture(photographs.trained(), (torch.from_numpy(crops[:2]),), free), {"inputs": crops}


MODELS: Mapping[str, Callable[[int], tuple[ir.Model, Feed]]] = {
    "encoder": _encoder,
    "recogniser": _recogniser,
    "detector": _detector,
    "photographs": _classifier,
}


def _distance(ours: Mapping[str, torch.Tensor], theirs: list[NDArray[Any]]) -> float:
    """Largest difference, as a share of the largest output above 1."""
    return max(
        float(np.abs(a.float().cpu().numpy() - b).max() / max(1.0, np.abs(b).max()))
        for a, b in zip(ours.values(), theirs, strict=True)
    )


def _layers_without_gradient(model: ir.Model, interpreter: Interpreter) -> list[str]:
    """Names of the layers whose gradient is missing, zero everywhere or not finite."""
    found = []
    for layer in find_layers(model).layers:
        gradient = interpreter.parameter(weight_name(layer)).grad
        if gradient is None or not bool(torch.isfinite(gradient).all() and gradient.any()):
            found.append(layer.name)
    return found


def _milliseconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median of a call, after two that do not count."""
    times = []
    for number in range(repeats + 2):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number > 1:
            times.append(time.perf_counter() - start)
    return float(np.median(times) * 1e3)


def measure(name: str, device: torch.device, batch: int, repeats: int) -> list[str]:
    """One row of the table.

    Raises:
        AssertionError: The interpreter differs from ONNX Runtime, or a layer has no gradient.
    """
    model, feed = MODELS[name](batch)
    run(pipeline.EXACT_BEFORE, model, Context())
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    expected = session.run(None, feed)
    interpreter = Interpreter(model, device=device)
    fed = {each: torch.from_numpy(array).to(device) for each, array in feed.items()}

    def forward() -> Mapping[str, torch.Tensor]:
        with torch.no_grad():
            outputs: Mapping[str, torch.Tensor] = interpreter(fed)
        return outputs

    def step() -> None:
        interpreter.zero_grad()
        sum(y.float().square().sum() for y in interpreter(fed).values()).backward()

    distance = _distance(forward(), expected)
    step()
    bare = _layers_without_gradient(model, interpreter)
    assert distance < TOLERANCE, f"{name} differs from ONNX Runtime by {distance:.1e}"
    assert not bare, f"{name}: layers without a gradient: {bare}"
    row = [name, str(len(next(iter(feed.values())))), f"{distance:.1e}"]
    row += [f"{_milliseconds(work, repeats, device):.1f}" for work in (forward, step)]
    with torch.autocast(device.type, torch.bfloat16):
        row.append(f"{_distance(forward(), expected):.1e}")
        row += [f"{_milliseconds(work, repeats, device):.1f}" for work in (forward, step)]
    return row


def main(
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    batch: Annotated[int, typer.Option(help="Samples of a batch; pages are an eighth.")] = 32,
    repeats: Annotated[int, typer.Option(help="Calls that are timed.")] = 5,
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(MODELS)}.")] = None,
) -> None:
    """Check the interpreter on trained models, and time it."""
    torch.backends.cudnn.allow_tf32 = False  # single precision is to mean it
    where = torch.device(device)
    title = torch.cuda.get_device_name(where) if where.type == "cuda" else device
    table = Table(title=f"The interpreter on {title}, torch {torch.__version__}")
    for column in ("model", "batch", "distance", "forward ms", "+ backward"):
        table.add_column(column, justify="right")
    for column in ("bf16 distance", "forward ms", "+ backward"):
        table.add_column(column, justify="right")
    for name in only or MODELS:
        table.add_row(*measure(name, where, batch, repeats))
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
