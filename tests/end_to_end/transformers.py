"""Transformers in plain torch, written the way torch, torchvision, timm and transformers do."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, DEPTH = 64, 4, 2
SIDE, PATCH = 48, 16
PATCHES = (SIDE // PATCH) ** 2


def sparse(module: nn.Module, kept: float = 0.2) -> nn.Module:
    """The module in evaluation mode, its linear weights in blocks of four outputs."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.dim() == 2 and min(parameter.shape) >= WIDTH // 2:
            rows, cols = parameter.shape
            mask = (torch.rand(rows // 4, cols) < kept).repeat_interleave(4, 0)
            parameter.data *= mask
        elif parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return module.eval()


class Mlp(nn.Sequential):
    """Two layers."""

    def __init__(self, activation: nn.Module) -> None:
        up, down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        super().__init__(up, activation, nn.Dropout(0.1), down)


class PackedBlock(nn.Module):
    """As torchvision: nn.MultiheadAttention, batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH)
        self.self_attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = Mlp(nn.GELU())

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.ln_1(tokens)
        x, _ = self.self_attention(x, x, x, need_weights=False)
        x = x + tokens
        return x + self.mlp(self.ln_2(x))


class StackedBlock(nn.Module):
    """As timm: one product for all three, a scale of each layer's result."""

    def __init__(self, fused: bool, scale: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp, self.fused = Mlp(nn.GELU(approximate="tanh")), fused
        self.gamma = nn.Parameter(torch.rand(WIDTH)) if scale else None

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        parts = self.qkv(self.norm1(tokens)).reshape(batch, count, 3, HEADS, width // HEADS)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            x = functional.scaled_dot_product_attention(q, k, v)
        else:
            x = (q * (width // HEADS) ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        x = self.proj(x.transpose(1, 2).reshape(batch, count, width))
        x = tokens + (x if self.gamma is None else x * self.gamma)
        return x + self.mlp(self.norm2(x))


class SplitBlock(nn.Module):
    """As transformers: a product for each."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH, eps=1e-12), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.dense = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.mlp, self.fused = Mlp(nn.GELU()), fused

    def forward(self, tokens: Tensor) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.view(x.shape[0], -1, HEADS, WIDTH // HEADS).transpose(1, 2)

        x = self.before(tokens)
        k, v, q = heads(self.key(x)), heads(self.value(x)), heads(self.query(x))
        if self.fused:
            x = functional.scaled_dot_product_attention(q, k, v, scale=0.25)
        else:
            x = torch.matmul((torch.matmul(q, k.transpose(2, 3)) / 4.0).softmax(-1), v)
        x = x.transpose(1, 2).contiguous()
        x = self.dense(x.reshape(*x.shape[:-2], WIDTH)) + tokens
        return self.mlp(self.after(x)) + x


class Vision(nn.Module):
    """A vision transformer.

    Args:
        blocks: What is between the patches and the head.
        first: How many class tokens; none means that the head reads the mean of all tokens.
        late: Whether positions are added to the class tokens too.
    """

    def __init__(self, blocks: list[nn.Module], first: int = 1, late: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.first = nn.ParameterList(torch.randn(1, 1, WIDTH) for _ in range(first))
        self.positions = nn.Parameter(torch.randn(1, PATCHES + first * late, WIDTH))
        self.blocks, self.late = nn.Sequential(*blocks), late
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = x if self.late else x + self.positions
        if self.first:
            x = torch.cat([*(t.expand(x.shape[0], -1, -1) for t in self.first), x], dim=1)
        x = x + self.positions if self.late else x
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0] if self.first else x.mean(dim=1))


class Encoder(nn.Module):
    """torch's own, and a layer for each token."""

    def __init__(self, *, batch_first: bool, norm_first: bool, activation: str) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            *(WIDTH, HEADS, 2 * WIDTH, 0.1, activation),
            batch_first=batch_first,
            norm_first=norm_first,
        )
        self.encoder = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


class Cross(nn.Module):
    """Attention of one sequence to another, whose sums get a mask; scaled on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.both, self.out = (nn.Linear(WIDTH, n * WIDTH) for n in (1, 2, 1))

    def forward(self, x: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        def heads(part: Tensor) -> Tensor:
            return part.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)

        key, value = self.both(other).chunk(2, dim=-1)
        root = math.sqrt(WIDTH // HEADS) ** -0.5
        scores = (heads(self.query(x)) * root) @ (heads(key) * root).transpose(-1, -2)
        x = (scores + mask).softmax(-1) @ heads(value)
        return self.out(x.transpose(1, 2).flatten(2))
