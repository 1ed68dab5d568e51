"""Small search problems with a truth that can be searched exhaustively."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from sparsecc.search.problem import Assignment, Numbers, Problem


def random_problem(seed: int, layers: int = 4, choices: int = 4) -> Problem:
    """Sparser choices are faster, smaller and worse, roughly."""
    random = np.random.default_rng(seed)
    density = np.linspace(1, 0.2, choices)
    times, losses, sizes = [], [], []
    for _ in range(layers):
        scale = random.lognormal(0, 0.7)
        times.append(scale * density * random.uniform(0.9, 1.1, choices))
        losses.append((1 - density) ** 2 * random.lognormal(-2, 0.8) * random.uniform(0.9, 1.1))
        sizes.append(np.round(random.lognormal(10, 1) * density))
    return Problem([f"layer{i}" for i in range(layers)], times, losses, sizes, fixed_ms=0.5)


def every(counts: Sequence[Numbers]) -> list[Assignment]:
    """All assignments of layers with so many choices."""
    return list(itertools.product(*(range(len(values)) for values in counts)))
