"""Moving shapes: scenes that a seed draws at random, and their frames at any size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (0.9, -0.8, -0.8),
    "green": (-0.8, 0.8, -0.7),
    "blue": (-0.8, -0.5, 0.9),
    "yellow": (0.9, 0.8, -0.8),
    "magenta": (0.9, -0.7, 0.8),
    "cyan": (-0.8, 0.8, 0.9),
}
"""Red, green and blue from -1 to 1."""

DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
"""Steps down and to the right."""

VOCABULARY = (SHAPES, tuple(COLOURS), tuple(DIRECTIONS))
"""The words at each place of a prompt, such as "circle red left"."""

RADIUS = 0.34, 0.5
TRAVEL = 0.6, 1.0
"""How large a shape is, and how far it goes in all; half the picture is 1."""

DIMMEST, BRIGHTEST = -0.9, -0.2
"""Of a background."""


@dataclass(frozen=True)
class Scenes:
    """What is to be seen in a batch of videos.

    Attributes:
        prompt: Numbers of the words [B, 3], int64.
        radius: [B], as the other lengths where half the picture is 1.
        middle: Where the shape is half-way [B, 2]: down and to the right of the centre.
        way: From the first frame to the last [B, 2].
        background: Colours at the top and at the bottom [B, 2, 3], -1 to 1.
    """

    prompt: Tensor
    radius: Tensor
    middle: Tensor
    way: Tensor
    background: Tensor


def draw(count: int, chance: torch.Generator) -> Scenes:
    """Scenes at random; no shape leaves the picture."""

    def between(low: float | Tensor, high: float | Tensor, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(size, generator=chance)

    words = [torch.randint(len(of), (count,), generator=chance) for of in VOCABULARY]
    radius = between(*RADIUS, count)
    steps = torch.tensor(list(DIRECTIONS.values()), dtype=torch.float32)
    way = steps[words[2]] * between(*TRAVEL, count)[:, None]
    room = (1 - radius[:, None] - way.abs() / 2).clamp_min(0)
    middle = between(-room, room, count, 2)
    background = between(DIMMEST, BRIGHTEST, count, 2, 3)
    return Scenes(torch.stack(words, 1), radius, middle, way, background)


def render(scenes: Scenes, frames: int, height: int, width: int) -> Tensor:
    """Frames of scenes [B, 3, frames, height, width], -1 to 1, with edges one pixel soft."""
    when = _centres(frames)[:, None, None] / 2
    down, right = _centres(height)[:, None], _centres(width)

    def at(axis: int) -> Tensor:
        middle, way = (each[:, axis, None, None, None] for each in (scenes.middle, scenes.way))
        return middle + way * when

    radius = scenes.radius[:, None, None, None]
    outside = _distance(scenes.prompt[:, 0], (down - at(0)) / radius, (right - at(1)) / radius)
    pixel = 2 / min(height, width)
    cover = (0.5 - outside * radius / pixel).clamp(0, 1)[:, None]
    colour = torch.tensor(list(COLOURS.values()))[scenes.prompt[:, 1]][:, :, None, None, None]
    top, bottom = scenes.background.unbind(1)
    background = torch.lerp(top[..., None], bottom[..., None], (_centres(height) + 1) / 2)
    return torch.lerp(background[:, :, None, :, None], colour, cover)


def _centres(pixels: int) -> Tensor:
    """Where the middles of so many pixels are, from -1 to 1."""
    return (2 * torch.arange(pixels) + 1) / pixels - 1


def _distance(shape: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """How far outside its shape of radius 1 a point is."""
    across = right.abs()
    circle = torch.hypot(down, right) - 1
    square = torch.maximum(down.abs(), across) - 0.85
    triangle = torch.maximum(down - 0.7, across * 0.88 - down * 0.47 - 0.5)
    return torch.where(
        _spread(shape == 0), circle, torch.where(_spread(shape == 1), square, triangle)
    )


def _spread(each: Tensor) -> Tensor:
    return each[:, None, None, None]
