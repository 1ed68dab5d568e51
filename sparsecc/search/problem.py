"""What a search decides over: per layer a few choices, each with a time, a loss and a size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]
Assignment = tuple[int, ...]
"""Number of the choice of every layer."""


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Layers and what may be done to them.

    Choice 0 of a layer leaves it as it is; the others come in any order. What is given is copied.

    Attributes:
        names: Of the layers.
        times: Per layer ``[choices]``: predicted milliseconds.
        losses: Per layer ``[choices]``: what a choice costs in quality, on a scale that all layers
            share; nothing but NaN in a layer where it was not measured.
        sizes: Per layer ``[choices]``: bytes of the weight as it would be stored.
        fixed_ms: Predicted milliseconds of everything outside the layers.

    Raises:
        ValueError: Arrays do not fit each other, or hold a value that is negative or not finite.
    """

    names: Sequence[str]
    times: Sequence[Numbers]
    losses: Sequence[Numbers]
    sizes: Sequence[Numbers]
    fixed_ms: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        for field in ("times", "losses", "sizes"):
            given = tuple(_frozen(values) for values in getattr(self, field))
            object.__setattr__(self, field, given)
            if len(given) != len(self.names):
                raise ValueError(f"{len(self.names)} names, but {field} of {len(given)} layers")
        if not (math.isfinite(self.fixed_ms) and self.fixed_ms >= 0):
            raise ValueError(f"fixed_ms is {self.fixed_ms}")
        for layer in zip(self.names, self.times, self.losses, self.sizes, strict=True):
            _check(*layer)

    @property
    def dense(self) -> Assignment:
        """Every layer left as it is."""
        return (0,) * len(self.names)

    def ms(self, assignment: Assignment) -> float:
        """Predicted time of the whole model, in milliseconds."""
        return math.fsum([self.fixed_ms, *_picked(self.times, assignment)])

    def loss(self, assignment: Assignment) -> float:
        """Sum of the losses of the layers; NaN where one was not measured."""
        return math.fsum(_picked(self.losses, assignment))

    def bytes(self, assignment: Assignment) -> float:
        """Of all weights, as they would be stored."""
        return math.fsum(_picked(self.sizes, assignment))


def _picked(arrays: Sequence[Numbers], assignment: Assignment) -> list[float]:
    return [float(values[choice]) for values, choice in zip(arrays, assignment, strict=True)]


def _frozen(values: ArrayLike) -> Numbers:
    array: NDArray[Any] = np.array(values, np.float64)
    array.setflags(write=False)
    return array


def _check(name: str, times: Numbers, losses: Numbers, sizes: Numbers) -> None:
    if times.ndim != 1 or not len(times) or not times.shape == losses.shape == sizes.shape:
        shapes = f"{times.shape}, {losses.shape} and {sizes.shape}"
        raise ValueError(f"times, losses and sizes of layer {name!r} have shapes {shapes}")
    unmeasured = bool(np.isnan(losses).all())
    for what, values in (("times", times), ("losses", losses), ("sizes", sizes)):
        if what == "losses" and unmeasured:
            continue
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError(f"{what} of layer {name!r} are not all finite and at least 0")
