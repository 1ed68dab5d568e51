"""Rectified flow between videos and noise: what is learnt, and how a sample is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of a noisy video, its share of noise and a prompt; see `model.VideoDiT.forward`."""

UNSHIFTED = 256 * 4 * 3
"""Numbers in a video at which noise is spread evenly over time."""


def noise_at(fraction: Tensor, numbers: int) -> Tensor:
    """The share of noise at a fraction of the way, more of it the more numbers a video has.

    Many numbers show the same scene through more noise, so that time is shifted by the root of how
    many there are (Esser et al., Scaling Rectified Flow Transformers, section 5.3.2).
    """
    shift = math.sqrt(numbers / UNSHIFTED)
    return shift * fraction / (1 + (shift - 1) * fraction)


def loss(velocity: Velocity, videos: Tensor, prompt: Tensor, chance: torch.Generator) -> Tensor:
    """Mean squared error of the velocity at one random share of noise for each video."""
    noise = torch.randn(videos.shape, generator=chance)
    fraction = torch.rand(len(videos), generator=chance)
    time = noise_at(fraction, videos[0].numel()).clamp_min(0.02)
    noisy = torch.lerp(videos, noise, time[:, None, None, None, None])
    return (velocity(noisy, time, prompt) - (noise - videos)).square().mean()


def sample(
    velocity: Velocity,
    prompt: Tensor,
    size: tuple[int, int, int],
    steps: int,
    chance: torch.Generator,
    told: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Videos [B, 3, frames, height, width] of prompts [B, 3] by so many steps of Euler's method."""
    videos = torch.randn(len(prompt), 3, *size, generator=chance)
    times = noise_at(torch.linspace(1, 0, steps + 1), videos[0].numel())
    for step in range(steps):
        here, there = times[step], times[step + 1]
        videos = videos + (there - here) * velocity(videos, here.expand(len(prompt)), prompt)
        told(step + 1)
    return videos
