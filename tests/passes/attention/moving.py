"""A toy whose attention looks at marked tokens: marked in the input, or always the same ones."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsecc import ops
from sparsecc.passes.attention.modes import Grid

GRID = Grid(4, 16, 16)
HEADS, DIM = 4, 32
WIDTH = HEADS * DIM
SIDE = GRID.tokens // 64
"""Blocks along a side of the scores."""
BLOCKS = HEADS * SIDE**2
"""Of all heads: the length of an index."""
FIXED = 3
"""The block of keys that an attention looks at which does not move."""


class Layer(nn.Module):
    """Attention to the tokens whose first features are large, or to those of one block."""

    def __init__(self, *, moves: bool) -> None:
        super().__init__()
        self.queries, self.keys, self.values, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        always, fixed = torch.zeros(1, HEADS, 1, DIM), torch.zeros(1, HEADS, GRID.tokens, DIM)
        always[..., 0] = 1 + torch.arange(HEADS)[:, None] / 10  # no two heads are alike
        fixed[:, :, FIXED * 64 : FIXED * 64 + 64, 0] = 0 if moves else 6
        self.register_buffer("always", always)
        self.register_buffer("fixed", fixed)
        dice = torch.Generator().manual_seed(int(moves))
        with torch.no_grad():
            for layer, size in ((self.queries, 0.01), (self.keys, 0.1), (self.values, 1.0)):
                layer.weight.copy_(torch.randn(WIDTH, WIDTH, generator=dice) * size / WIDTH**0.5)
                layer.bias.zero_()
            self.keys.weight[::DIM] = 0
            self.keys.weight[::DIM, :HEADS] = torch.eye(HEADS) * moves

    def operands(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values [1, heads, tokens, features] of tokens [1, tokens, WIDTH]."""
        q, k, v = (
            part(x).view(1, GRID.tokens, HEADS, DIM).transpose(1, 2)
            for part in (self.queries, self.keys, self.values)
        )
        return q + self.always, k + self.fixed, v

    def close(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Tokens and the output of their attention to the same as tokens."""
        return x + self.out(y.transpose(1, 2).reshape(x.shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[1, tokens, WIDTH]."""
        q, k, v = self.operands(x)
        return self.close(x, (q @ k.transpose(2, 3)).softmax(-1) @ v)


def layer(*, moves: bool) -> Layer:
    """The same layer every time."""
    torch.manual_seed(0)
    return Layer(moves=moves).eval()


@functools.cache
def exported(*moves: bool) -> Any:
    """Layers that move or do not, as ONNX."""
    network = nn.Sequential(*(layer(moves=each) for each in moves)).eval()
    example = (torch.zeros(1, GRID.tokens, WIDTH),)
    return torch.onnx.export(network, example, dynamo=True, input_names=["x"]).model_proto


def marked(block: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A step in which the tokens of one block are marked."""
    x = np.random.default_rng(seed).standard_normal((1, GRID.tokens, WIDTH)).astype(np.float32)
    x[:, block * 64 : block * 64 + 64, :HEADS] = 6
    return {"x": x}


def samples(*blocks: int) -> list[dict[str, np.ndarray]]:
    """Steps in which these are marked, one after the other."""
    return [marked(block, seed) for seed, block in enumerate(blocks)]


def attended(x: np.ndarray, index: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The layer that moves in float64 at a step of 5, and its next index."""
    network, tokens = layer(moves=True).double(), torch.from_numpy(x).double()
    rule: dict[str, Any] = {"full": 1, "searches": (1, 3), "sparsity": 0.8, "words": (0, 0)}
    grid = HEADS, SIDE, SIDE, 64, 64
    with torch.no_grad():
        q, k, v = (each.numpy() for each in network.operands(tokens))
        index = ops.next_blocks(q, k, index, step, grid, scale=1.0, **rule)
        y = ops.attend(q, k, v, scale=1.0, blocks=(index, grid))
        return network.close(tokens, torch.from_numpy(y)).numpy(), index
