"""Measures Time-MoE, a forecaster with experts: `python -m benchmarks.time_moe --help`.

The model is built as it was published (Shi et al., arXiv 2409.16040), with random weights. Torch
exports it twice: with the published loop, in which an expert gets the tokens that chose it, and
with every expert on every token times its gate, as who exports a loop that cannot be traced has to
write it. ONNX Runtime runs both, and sparsecc what it makes of the model, dense and with zeros in
blocks of 4x1, all in turn. A run is added to the JSON file; the page shows all of the file.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import sparsecc
from benchmarks import page, rows
from benchmarks.attention import PAUSE_S
from benchmarks.swin import pruned
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.engines import open_engine

SIZES = {
    "tiny": (32, 48, 2, 4),
    "base": (384, 1536, 12, 12),
    "large": (768, 3072, 12, 12),
}
"""Features, inner features of the shared expert, layers and heads."""
HORIZONS = (1, 8, 32, 64)
NAME = "time-moe"
LOOP, EVERY, OURS, ZEROS = "loop", "every", "sparsecc", "zeros"
PEERS, MINE = (EVERY, LOOP), (OURS, ZEROS)
SHARE = 0.8
"""Of zeros in the weights of attention and of experts, of ``ZEROS``."""
LEAST_ROUNDS = 5
CLOSE = 1e-4
"""Of the largest output."""


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
    """Eight experts, two a token, gates not renormalised; a shared one times a sigmoid.

    Attributes:
        every: Whether every expert computes every token, times its gate.
    """

    def __init__(self, width: int, inner: int, count: int = 8, chosen: int = 2) -> None:
        super().__init__()
        self.every = False
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
        total = (self._of_all if self.every else self._looped)(hidden, shares, chosen)
        shared = torch.sigmoid(self.shared_expert_gate(hidden)) * self.shared_expert(hidden)
        return (total + shared).view(shape)

    def _looped(self, hidden: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        total = torch.zeros_like(hidden)
        mask = functional.one_hot(chosen, num_classes=len(self.experts)).permute(2, 1, 0)
        for e, expert in enumerate(self.experts):
            slot, token = torch.where(mask[e])
            own = hidden[None, token].reshape(-1, hidden.shape[-1])
            total.index_add_(0, token, expert(own) * shares[token, slot, None])
        return total

    def _of_all(self, hidden: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        gates = torch.zeros(len(hidden), len(self.experts)).scatter(1, chosen, shares)
        total = torch.zeros_like(hidden)
        for e, expert in enumerate(self.experts):
            total = total + expert(hidden) * gates[:, e, None]
        return total


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


@dataclass(frozen=True)
class Row:
    """One length of series on so many threads.

    Attributes:
        size: A key of ``SIZES``.
        length: Points of the series.
        threads: Of every engine.
        turns: In which each engine ran once.
        ms: Engine → median time of a run.
        ratios: Two engines as ``peer/ours`` → median and quartiles of the time of the one over
            that of the other, turn by turn.
    """

    size: str
    length: int
    threads: int
    turns: int
    ms: dict[str, float]
    ratios: dict[str, rows.Ratio]

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells rows apart."""
        return self.size, self.length, self.threads


def prepare(size: str, length: int, folder: Path) -> None:
    """Export a model of a size in both forms, dense and pruned, and compile it, if need be."""
    done = folder / "done"
    if done.exists():
        return
    torch.manual_seed(0)
    width, inner, layers, heads = SIZES[size]
    model = TimeMoe(width, inner, layers, heads, HORIZONS).eval()
    folder.mkdir(parents=True, exist_ok=True)
    for form in PEERS:
        _export(model, length, folder / f"{form}.onnx", every=form == EVERY)
    sparsecc.compile(folder / f"{LOOP}.onnx").save(folder / OURS)
    for layer in model.layers:
        for part in (layer.self_attn, layer.ffn_layer.experts, layer.ffn_layer.shared_expert):
            pruned(part, SHARE)
    _export(model, length, folder / f"{ZEROS}.onnx", every=False)
    sparsecc.compile(folder / f"{ZEROS}.onnx").save(folder / ZEROS)
    done.touch()


def _export(model: TimeMoe, length: int, path: Path, *, every: bool) -> None:
    for layer in model.layers:
        layer.ffn_layer.every = every
    series = torch.randn(1, length)
    torch.onnx.export(model, (series,), path, dynamo=True, opset_version=20, verbose=False)


def engines(folder: Path, threads: int) -> dict[str, Any]:
    """A session of every engine."""
    found = {form: open_session(folder / f"{form}.onnx", threads=threads) for form in PEERS}
    for mine in MINE:
        compiled = sparsecc.load(folder / mine)
        found[mine] = open_engine(compiled.path, compiled.manifest, threads=threads)
    return found


def check(runs: dict[str, Any], folder: Path, feed: dict[str, NDArray[Any]]) -> None:
    """Compare all with the loop of the same weights.

    Raises:
        RuntimeError: Something else comes out.
    """
    wanted = dict.fromkeys(runs, runs[LOOP].run(None, feed))
    wanted[ZEROS] = open_session(folder / f"{ZEROS}.onnx", threads=1).run(None, feed)
    for engine, session in runs.items():
        pairs = zip(session.run(None, feed), wanted[engine], strict=True)
        away = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
        if not away < CLOSE:
            raise RuntimeError(f"{engine} is {away:.1e} away from the loop")


def measure(folder: Path, size: str, length: int, threads: int, seconds: float) -> Row:
    """All engines in turn, on one random series."""
    runs = engines(folder, threads)
    series = np.random.default_rng(0).standard_normal((1, length), np.float32)
    feed = {runs[LOOP].get_inputs()[0].name: series}
    check(runs, folder, feed)
    taken: dict[str, list[float]] = {engine: [] for engine in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken[LOOP]) < LEAST_ROUNDS:
        for engine, session in runs.items():
            if threads > 1:
                time.sleep(PAUSE_S)
            start = time.perf_counter()
            session.run(None, feed)
            taken[engine].append((time.perf_counter() - start) * 1e3)
    return row_of((size, length, threads), taken)


def row_of(key: tuple[str, int, int], taken: dict[str, list[float]]) -> Row:
    """The figures of all turns."""
    ratios = {
        f"{peer}/{mine}": rows.over(taken[peer], taken[mine])
        for peer, mine in itertools.product(PEERS, MINE)
    }
    ms = {engine: float(np.median(times)) for engine, times in taken.items()}
    return Row(*key, len(taken[LOOP]), ms, ratios)


def section(found: Sequence[Row], machine: dict[str, Any]) -> str:
    """The table: times, and how many times faster than ONNX Runtime on each of the two graphs."""
    titles = {EVERY: "all experts", LOOP: "loop", OURS: "dense", ZEROS: f"{SHARE:.0%} zeros"}
    over = [f"{titles[mine]}, over {titles[peer]}" for mine in MINE for peer in PEERS]
    head = ["points", "threads", *(f"{title}, ms" for title in titles.values()), *over]
    lines = [head, ["---"] * len(head)]
    for row in found:
        cells = [f"{row.ms[engine]:.2f}" for engine in titles]
        cells += [rows.cell(row.ratios[f"{peer}/{mine}"]) for mine in MINE for peer in PEERS]
        lines.append([str(row.length), str(row.threads), *cells])
    table = page.markdown(lines)
    return (
        f"{machine['processor']}, {machine['cores']} cores; torch {torch.__version__}, ONNX "
        f"Runtime {ort.__version__}. Time-MoE of the sizes of {found[0].size}, random weights.\n\n"
        f"{table}"
    )


def main(
    size: Annotated[str, typer.Option(help="tiny, base or large")] = "base",
    length: Annotated[int, typer.Option(min=1, help="points of the series")] = 512,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    seconds: Annotated[float, typer.Option(help="of measuring; at 0 it is only compiled")] = 20.0,
    models: Annotated[Path, typer.Option(help="Folder in which models are kept.")] = Path(
        "out/time-moe"
    ),
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/time-moe.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Measures one length on so many threads; writes JSON and a page."""
    folder = models / f"{size}-{length}"
    prepare(size, length, folder)
    if seconds <= 0:
        return
    new = measure(folder, size, length, threads, seconds)
    found = [row for row in rows.with_earlier(output, [new], lambda r: r.key) if row.size == size]
    found.sort(key=lambda row: row.key)
    machine = rows.machine()
    content = {"machine": machine, "rows": [asdict(row) for row in found]}
    page.publish(NAME, section(found, machine), content, output, page_file)


if __name__ == "__main__":
    typer.run(main)
