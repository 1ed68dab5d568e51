"""A video diffusion transformer: joint attention over a prompt's words and a video's patches."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.video_dit.scenes import VOCABULARY

WIDTH, HEADS, DEPTH = 256, 4, 4
HEAD = WIDTH // HEADS
MLP = 2 * WIDTH
PATCH = 2
"""Pixels of a patch, down and across; in time it is one frame."""

CHANNELS = 3 * PATCH * PATCH
WORDS = len(VOCABULARY)
AXES = (16, 24, 24)
"""Features of a head that turn with time, height and width."""

NEAR = math.pi / 8, math.pi / 2
"""Radians from a patch to the next, slowest and fastest: half of an axis's turns."""

FAR = math.pi / 2, 4 * math.pi
"""Radians from one end of an axis to the other: the other half."""

USUAL_TOKENS = 512
"""At so many, scores are scaled as everywhere."""

LEAST_NOISE = 0.05
"""Below, the velocity is taken as at this much noise: it would be divided by nearly zero."""


class VideoDiT(nn.Module):
    """Predicts the velocity of a rectified flow from videos to noise.

    Blocks are those of CogVideoX: words and patches are one sequence, words first, with weights
    in common and a modulation (adaLN-zero, DiT) of their own. Queries and keys are normed; those
    of patches turn with their place in time, height and width (RoPE). Fast turns count patches and
    slow ones shares of the whole axis (as YaRN does), so that a network trained on few patches
    knows among many what is beside what, and where. It predicts the video itself, and from that
    the velocity (Li and He, Back to Basics, arXiv 2511.13720).
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(CHANNELS, WIDTH)
        self.words = nn.ModuleList(nn.Embedding(len(words), WIDTH) for words in VOCABULARY)
        self.time = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.modulation = nn.Linear(WIDTH, 2 * WIDTH)
        self.pixels = nn.Linear(WIDTH, CHANNELS)
        for zero in (self.modulation, self.pixels):
            nn.init.zeros_(zero.weight)

    def forward(self, video: Tensor, time: Tensor, prompt: Tensor) -> Tensor:
        """The velocity.

        Args:
            video: Noisy, [B, 3, frames, height, width].
            time: Share of noise [B], 0 (none) to 1.
            prompt: Numbers of the words [B, 3], int64.

        Returns:
            Noise less video, as `video`.
        """
        grid = video.shape[2], video.shape[3] // PATCH, video.shape[4] // PATCH
        words = torch.stack([each(prompt[:, at]) for at, each in enumerate(self.words)], 1)
        state = functional.silu(self.time(waves(1000 * time)) + words.mean(1))[:, None]
        x = torch.cat([words, self.patches(to_patches(video, grid))], 1)
        cos, sin = turns(grid)
        for block in self.blocks:
            x = block(x, state, cos, sin)
        shift, scale = self.modulation(state).chunk(2, -1)
        x = self.norm(x[:, WORDS:]) * (1 + scale) + shift
        clean = to_video(self.pixels(x), grid)
        return (video - clean) / time.clamp_min(LEAST_NOISE)[:, None, None, None, None]


class Block(nn.Module):
    """Attention and an MLP, each between a modulated norm and a gate that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.modulation = nn.Linear(WIDTH, 2 * 6 * WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.query_norm, self.key_norm = nn.RMSNorm(HEAD), nn.RMSNorm(HEAD)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, MLP), nn.GELU(approximate="tanh"), nn.Linear(MLP, WIDTH)
        )
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, state: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, words and patches, WIDTH], the same of a state [B, 1, WIDTH] and of the turns."""
        ours = [part.chunk(6, -1) for part in self.modulation(state).chunk(2, -1)]
        shift1, scale1, gate1, shift2, scale2, gate2 = zip(*ours, strict=True)
        mixed = self.attention(modulated(self.norm1(x), scale1, shift1), cos, sin)
        x = x + scaled(mixed, gate1)
        return x + scaled(self.mlp(modulated(self.norm2(x), scale2, shift2)), gate2)

    def attention(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Of every word and patch to every other."""
        batch, tokens, _ = x.shape
        heads = self.qkv(x).view(batch, tokens, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
        query = turned(self.query_norm(heads[0]), cos, sin)
        key = turned(self.key_norm(heads[1]), cos, sin)
        mixed = functional.scaled_dot_product_attention(
            query, key, heads[2], scale=sharpness(tokens)
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, WIDTH))


Parts = tuple[Tensor, ...]
"""What words have, and what patches have."""


def modulated(x: Tensor, scales: Parts, shifts: Parts) -> Tensor:
    """Words and patches [B, tokens, WIDTH], each scaled and shifted by their own numbers."""
    parts = zip((x[:, :WORDS], x[:, WORDS:]), scales, shifts, strict=True)
    return torch.cat([part * (1 + scale) + shift for part, scale, shift in parts], 1)


def scaled(x: Tensor, scales: Parts) -> Tensor:
    """Words and patches [B, tokens, WIDTH], each multiplied by their own numbers."""
    return torch.cat([x[:, :WORDS] * scales[0], x[:, WORDS:] * scales[1]], 1)


def sharpness(tokens: int) -> float:
    """What scores are multiplied by: more for many tokens, or a softmax spreads over them all.

    Source: Chiang and Cholak, Overcoming a Theoretical Limitation of Self-Attention (ACL 2022).
    """
    return math.log(tokens) / math.log(USUAL_TOKENS) / math.sqrt(HEAD)


def waves(x: Tensor) -> Tensor:
    """Cosines and sines [B, WIDTH] of x [B] at wavelengths from 2π to 2π · 10000."""
    rates = torch.exp(-math.log(10000) * torch.arange(WIDTH // 2) / (WIDTH // 2))
    angles = x[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


def turns(grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Cosines and sines [words and patches, HEAD / 2] of a grid; words do not turn."""
    angles = []
    for axis, (size, features) in enumerate(zip(grid, AXES, strict=True)):
        place, each = torch.arange(size)[:, None], features // 4
        near, far = place * _rates(NEAR, each), (place + 0.5) / size * _rates(FAR, each)
        shape = [size if at == axis else 1 for at in range(3)]
        both = torch.cat([near, far], -1).view(*shape, features // 2)
        angles.append(both.expand(*grid, features // 2))
    patches = torch.cat(angles, -1).view(-1, HEAD // 2)
    every = torch.cat([torch.zeros(WORDS, HEAD // 2), patches])
    return every.cos(), every.sin()


def _rates(ends: tuple[float, float], count: int) -> Tensor:
    """Radians from the slowest to the fastest, each as many times the last."""
    return ends[0] * (ends[1] / ends[0]) ** torch.linspace(0, 1, count)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads [..., tokens, HEAD], the two halves of each turned as one plane."""
    one, two = x.chunk(2, -1)
    return torch.cat([one * cos - two * sin, one * sin + two * cos], -1)


def to_patches(video: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """[B, 3, frames, height, width] as [B, patches, CHANNELS], frame by frame, row by row."""
    frames, rows, columns = grid
    cut = video.view(-1, 3, frames, rows, PATCH, columns, PATCH)
    return cut.permute(0, 2, 3, 5, 1, 4, 6).reshape(-1, frames * rows * columns, CHANNELS)


def to_video(patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """The way back of `to_patches`."""
    frames, rows, columns = grid
    cut = patches.view(-1, frames, rows, columns, 3, PATCH, PATCH)
    video = cut.permute(0, 4, 1, 2, 5, 3, 6)
    return video.reshape(-1, 3, frames, rows * PATCH, columns * PATCH)
