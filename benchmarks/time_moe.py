"""Measures Time-MoE, a forecaster with experts: `python -m benchmarks.time_moe --help`.

The model is built as it was published (Shi et al., arXiv 2409.16040), with random weights, exported
by torch, and run by ONNX Runtime as it is and by sparsecc, in turns.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

import sparsecc
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.engines import open_engine

SIZES = {
    "tiny": (32, 48, 2, 4),
    "base": (384, 1536, 12, 12),
    "large": (768, 3072, 12, 12),
}
"""Features, inner features of the shared expert, layers and heads."""
HORIZONS = (1, 8, 32, 64)
LEAST_ROUNDS = 5


class SwiGlu(nn.Module):
    """down(silu(gate x) · up x)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width]`` → the same."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


def rotated(x: Tensor, base: float = 10000.0) -> Tensor:
    """Rotary embedding of ``[batch, heads, tokens, features]``."""
    half = x.shape[-1] // 2
    speeds = base ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = torch.arange(x.shape[-2], dtype=torch.float32)[:, None] * speeds
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos + turned * sin


class Attention(nn.Module):
    """Attention with rotary embeddings; Time-MoE has biases on all but the last product."""

    def __init__(self, width: int, heads: int, *, causal: bool, normed: bool = False) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width, bias=False)
        self.norms = nn.ModuleList(nn.RMSNorm(width) if normed else nn.Identity() for _ in "qk")
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, tokens, width]`` → the same."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k = self.norms[0](q), self.norms[1](k)
        q, k, v = (t.view(batch, length, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        made = functional.scaled_dot_product_attention(
            rotated(q), rotated(k), v, is_causal=self.causal
        )
        return self.out(made.transpose(1, 2).reshape(batch, length, width))


class TimeExperts(nn.Module):
    """Eight experts, two a token, gates not renormalised; a shared one times a sigmoid."""

    def __init__(self, width: int, inner: int, count: int = 8, chosen: int = 2) -> None:
        super().__init__()
        self.gate = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(SwiGlu(width, inner // chosen) for _ in range(count))
        self.shared_expert = SwiGlu(width, inner)
        self.shared_expert_gate = nn.Linear(width, 1, bias=False)
        self.chosen = chosen

    def forward(self, hidden: Tensor) -> Tensor:
        """``[batch, tokens, width]`` → the same."""
        shape, width = hidden.shape, hidden.shape[-1]
        hidden = hidden.view(-1, width)
        shares = functional.softmax(self.gate(hidden), dim=1, dtype=torch.float)
        shares, chosen = torch.topk(shares, self.chosen, dim=-1)
        total = torch.zeros_like(hidden)
        mask = functional.one_hot(chosen, num_classes=len(self.experts)).permute(2, 1, 0)
        for e, expert in enumerate(self.experts):
            slot, token = torch.where(mask[e])
            own = hidden[None, token].reshape(-1, width)
            total.index_add_(0, token, expert(own) * shares[token, slot, None])
        shared = torch.sigmoid(self.shared_expert_gate(hidden)) * self.shared_expert(hidden)
        return (total + shared).view(shape)


class TimeLayer(nn.Module):
    """Attention and experts, each with a residual."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.self_attn = Attention(width, heads, causal=True)
        self.ffn_layer = TimeExperts(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, tokens, width]`` → the same."""
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.ffn_layer(self.post_attention_layernorm(x))


class TimeMoe(nn.Module):
    """Time-MoE: a series ``[batch, length]`` → what follows each point, for several horizons."""

    def __init__(
        self,
        width: int = 32,
        inner: int = 48,
        layers: int = 2,
        heads: int = 4,
        horizons: tuple[int, ...] = (1, 8),
    ) -> None:
        super().__init__()
        self.emb_layer = nn.Linear(1, width, bias=False)
        self.gate_layer = nn.Linear(1, width, bias=False)
        self.layers = nn.ModuleList(TimeLayer(width, inner, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.lm_heads = nn.ModuleList(nn.Linear(width, h, bias=False) for h in horizons)

    def forward(self, series: Tensor) -> tuple[Tensor, ...]:
        """``[batch, length]`` → ``[batch, length, horizon]`` for each."""
        x = series.unsqueeze(-1)
        x = functional.silu(self.gate_layer(x)) * self.emb_layer(x)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return tuple(head(x) for head in self.lm_heads)


def prepare(size: str, length: int, folder: Path) -> None:
    """Export a model of a size to ``model.onnx`` of a folder, and compile it to ``artifact``."""
    torch.manual_seed(0)
    width, inner, layers, heads = SIZES[size]
    model, path = TimeMoe(width, inner, layers, heads, HORIZONS).eval(), folder / "model.onnx"
    series = torch.randn(1, length)
    torch.onnx.export(model, (series,), path, dynamo=True, opset_version=20, verbose=False)
    sparsecc.compile(path).save(folder / "artifact")


def measure(folder: Path, length: int, threads: int, seconds: float) -> str:
    """Medians of both, and the median ratio of neighbours in turn with its quartiles."""
    compiled = sparsecc.load(folder / "artifact")
    peer = open_session(folder / "model.onnx", threads=threads)
    ours = open_engine(compiled.path, compiled.manifest, threads=threads)
    series = np.random.default_rng(0).standard_normal((1, length)).astype(np.float32)
    feed = {peer.get_inputs()[0].name: series}
    worst = max(
        float(np.abs(made - wanted).max() / np.abs(wanted).max())
        for made, wanted in zip(ours.run(None, feed), peer.run(None, feed), strict=True)
    )
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < LEAST_ROUNDS:
        marks = [time.perf_counter()]
        for session in (peer, ours):
            session.run(None, feed)
            marks.append(time.perf_counter())
        times.append((marks[1] - marks[0], marks[2] - marks[1]))
    theirs, own = (1e3 * np.median(column) for column in zip(*times, strict=True))
    low, middle, high = np.quantile([a / b for a, b in times], [0.25, 0.5, 0.75])
    return (
        f"ONNX Runtime {theirs:.2f} ms, sparsecc {own:.2f} ms, ratio {middle:.2f} "
        f"({low:.2f}–{high:.2f}), largest error {worst:.1e}, {len(times)} rounds"
    )


def main(
    size: Annotated[str, typer.Option(help="tiny, base or large")] = "base",
    length: Annotated[int, typer.Option(help="points of the series")] = 512,
    threads: Annotated[int, typer.Option()] = 1,
    seconds: Annotated[float, typer.Option(help="of measuring")] = 20.0,
) -> None:
    """Say how long both take."""
    with TemporaryDirectory() as folder:
        prepare(size, length, Path(folder))
        print(f"{size}, {length} points: {measure(Path(folder), length, threads, seconds)}")


if __name__ == "__main__":
    typer.run(main)
