"""A toy diffusion transformer with one pattern planted in each head."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsecc.passes.attention.modes import Grid

GRID = Grid(8, 16, 16)
SMALL = Grid(4, 4, 8)
LAYERS, HEADS, DIM = 4, 8, 32
WIDTH = HEADS * DIM
STRIPES = range(5 * 64, 6 * 64)
PLANTED = ("diagonal", "multi-diagonal", "vertical", "skip", "full")
SHARPNESS = 1.5


def modes() -> list[list[str]]:
    """What was planted in each head of each layer."""
    return [
        [PLANTED[(head + layer) % len(PLANTED)] for head in range(HEADS)] for layer in range(LAYERS)
    ]


def _waves(places: np.ndarray, fastest: float) -> np.ndarray:
    """Features [tokens, DIM] whose products are large for near places alone."""
    rates = np.random.default_rng(0).uniform(0, fastest, DIM // 2)
    angles = places[:, None] * rates
    return np.concatenate([np.cos(angles), np.sin(angles)], 1)


def _features() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Queries and keys of each mode [tokens, DIM]."""
    tokens = np.arange(GRID.tokens)
    near, place = _waves(tokens, 0.3), _waves(tokens % GRID.frame, 1.0)
    striped, always = (np.zeros((len(tokens), DIM)) for _ in range(2))
    anywhere = np.random.default_rng(1).standard_normal((2, len(tokens), DIM))
    striped[list(STRIPES), 0], always[:, 0] = 15, 1
    return {
        "diagonal": (SHARPNESS * near, near),
        "multi-diagonal": (SHARPNESS * place, place),
        "vertical": (always, striped),
        "skip": (near, near),
        "full": (anywhere[0] / DIM**0.5, anywhere[1]),
    }


VALUES = {"skip": 0.0, "vertical": 8.0, "full": 2 * GRID.tokens**0.5}
"""How much a head says, so that a mean of all tokens does not vanish beside a few."""


class Block(nn.Module):
    """Attention whose queries and keys come from places and whose values from tokens."""

    def __init__(self, planted: list[str], seed: int) -> None:
        super().__init__()
        parts = [_features()[mode] for mode in planted]
        for name, at in (("queries", 0), ("keys", 1)):
            stacked = np.stack([part[at] for part in parts]).astype(np.float32)
            self.register_buffer(name, torch.from_numpy(stacked)[None])
        self.wiggle = nn.Linear(WIDTH, WIDTH)
        self.values, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        generator = torch.Generator().manual_seed(seed)
        scales = torch.tensor([VALUES.get(mode, 1.0) for mode in planted]).repeat_interleave(DIM)
        with torch.no_grad():
            for layer in (self.wiggle, self.values, self.out):
                layer.weight.copy_(torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5)
                layer.bias.zero_()
            self.wiggle.weight *= 0.01
            self.values.weight *= scales[:, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, WIDTH]."""
        heads = x.shape[0], x.shape[1], HEADS, DIM
        wiggle = self.wiggle(x).view(heads).transpose(1, 2)
        scores = (self.queries + wiggle) @ (self.keys + wiggle).transpose(2, 3)
        apart = self.values(x - x.mean(1, keepdim=True))  # what tokens share, a mean would keep
        y = scores.softmax(-1) @ apart.view(heads).transpose(1, 2)
        y = self.out(y.transpose(1, 2).reshape(x.shape))
        return nn.functional.layer_norm(x + y, (WIDTH,))


def network(layers: int = LAYERS) -> nn.Module:
    """The toy: video tokens [1, tokens, WIDTH] to the same."""
    return nn.Sequential(
        *(Block(planted, at) for at, planted in enumerate(modes()[:layers]))
    ).eval()


def samples(count: int = 3) -> list[dict[str, np.ndarray]]:
    """Steps of a denoising."""
    chance = np.random.default_rng(1)
    return [
        {"x": chance.standard_normal((1, GRID.tokens, WIDTH)).astype(np.float32)}
        for _ in range(count)
    ]


@functools.cache
def exported(layers: int = LAYERS) -> Any:
    """The toy as ONNX."""
    example = torch.zeros(1, GRID.tokens, WIDTH)
    program = torch.onnx.export(
        network(layers), (example,), dynamo=True, input_names=["x"], verbose=False
    )
    return program.model_proto


class Layer(nn.Module):
    """Fused queries, keys and values with biases, four heads of eight."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[1, tokens, 32]."""
        heads = self.qkv(x).view(1, SMALL.tokens, 3, 4, 8).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(*heads.unbind())
        return x + self.out(y.transpose(1, 2).reshape(x.shape))


@functools.cache
def plain(layers: int = 2) -> Any:
    """A small model of such layers over the tokens of :data:`SMALL`, nothing planted in it."""
    torch.manual_seed(0)
    network = nn.Sequential(*(Layer() for _ in range(layers))).eval()
    example = (torch.zeros(1, SMALL.tokens, 32),)
    return torch.onnx.export(network, example, dynamo=True, input_names=["x"]).model_proto
