"""Measures attention within groups of tokens: `python -m benchmarks.window_attention --help`.

A layer of attention whose mask lets tokens see their own group alone, windows over a grid or texts
one after the other: as sets, as kept blocks of scores, and as it is in ONNX Runtime, in turns.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated
from unittest import mock

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn

import sparsecc
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.engines import open_engine
from sparsecc.measure import Session
from sparsecc.passes.attention import rules

Groups = NDArray[np.int64]


def windows(side: int, window: int, shift: int = 0) -> Groups:
    """Of a square grid of tokens, rolled by so much as shifted windows are."""
    at = np.arange(side) + shift
    places = at // window
    return (places[:, None] * (side + 1) + places).reshape(-1)


def texts(sizes: tuple[int, ...]) -> Groups:
    """Texts of so many tokens, one after the other."""
    return np.repeat(np.arange(len(sizes)), sizes)


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        groups: The group of each token.
        heads: How many.
        dim: Features of each.
    """

    groups: Groups
    heads: int
    dim: int


CASES = {
    "56x56, windows 7x7": Case(windows(56, 7), 3, 32),
    "56x56, windows 7x7, shifted by 3": Case(windows(56, 7, 3), 3, 32),
    "28x28, windows 7x7": Case(windows(28, 7), 6, 32),
    "64x64, windows 16x16": Case(windows(64, 16), 12, 64),
    "32 texts of 64": Case(texts((64,) * 32), 12, 64),
    "8 texts of 256": Case(texts((256,) * 8), 12, 64),
    "texts of 20 to 500": Case(texts(tuple(range(20, 501, 32))), 12, 64),
}


class Layer(nn.Module):
    """Attention with its projections."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case, width = case, case.heads * case.dim
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        seen = torch.from_numpy(case.groups[:, None] == case.groups)
        self.register_buffer("mask", torch.where(seen, 0.0, -torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, tokens, features]``."""
        parts = self.qkv(x).unflatten(-1, (3, self.case.heads, -1)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(*parts, attn_mask=self.mask)
        return self.out(y.transpose(1, 2).flatten(2))


def engines(case: Case, folder: Path, threads: int) -> tuple[dict[str, Session], Tensor]:
    """Who computes the layer, and its input."""
    torch.manual_seed(0)
    layer, width = Layer(case).eval(), case.heads * case.dim
    x, path = torch.randn(1, len(case.groups), width), folder / "model.onnx"
    torch.onnx.export(layer, (x,), path, dynamo=True, opset_version=20, verbose=False)
    compiled = {"sets": sparsecc.compile(path)}
    with mock.patch.object(rules, "sets_of", return_value=None):
        compiled["blocks"] = sparsecc.compile(path)
    found: dict[str, Session] = {
        name: open_engine(each.path, each.manifest, threads=threads)
        for name, each in compiled.items()
    }
    for name, each in compiled.items():
        rows = [row for row in each.report.rows if row.kernel == "attention"]
        print(f"  {name}: {', '.join(row.pattern for row in rows) or 'dense'}")
    return found | {"onnxruntime": open_session(path, threads=threads)}, x


def medians(
    sessions: Mapping[str, Session], feed: Mapping[str, NDArray[np.generic]], seconds: float
) -> dict[str, float]:
    """Times of each in turns, ms; what they compute is compared first."""
    results = [session.run(None, feed)[0] for session in sessions.values()]
    assert all(np.allclose(each, results[-1], atol=1e-5) for each in results)
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for name, session in sessions.items():
            before = time.perf_counter()
            session.run(None, feed)
            taken[name].append((time.perf_counter() - before) * 1e3)
    return {name: float(np.median(each)) for name, each in taken.items()}


def main(
    case: Annotated[list[str] | None, typer.Option(help="By default all.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    seconds: Annotated[float, typer.Option(help="For each case.")] = 5.0,
) -> None:
    """Prints a line of times for each case."""
    for name in case or CASES:
        print(name)
        with TemporaryDirectory() as scratch:
            sessions, x = engines(CASES[name], Path(scratch), threads)
            ms = medians(sessions, {"x": x.numpy()}, seconds)
        print(f"  {', '.join(f'{engine} {each:.3f} ms' for engine, each in ms.items())}")


if __name__ == "__main__":
    typer.run(main)
