"""What the cost model has to know of a GPU: the time of a launch, and its bandwidths."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from benchmarks.gpu.timing import DEVICE, Run, graphed, in_turns
from sparsecc.backends.cuda.kernel import Arch

LAUNCHES = 64
"""Of the graph whose launches are timed."""
COPIES = 16
"""Of the graph that stays in the cache."""
FAR = 1 << 30
"""Bytes of an array that no cache holds."""
NEAR = (4 << 20, 12 << 20)
"""Bytes of two arrays that the second-level cache holds: what the larger takes longer is moving."""
_SECONDS = 1.0
Times = Mapping[str, float]
"""Milliseconds by name."""


def rates(_: Arch) -> Iterator[dict[str, Any]]:
    """The rates, each as a row; the times they are from beside them."""
    yield from told(times_of(sides()))


def sides() -> dict[str, Run]:
    """What is timed."""
    small = torch.zeros(1, device=DEVICE)
    far = [torch.zeros(FAR // 4, device=DEVICE) for _ in range(3)]
    made: dict[str, Run] = {
        "launches": graphed(functools.partial(_again, LAUNCHES, lambda: small.add_(1.0))),
        "copy": lambda: far[0].copy_(far[1]),
        "triad": lambda: torch.add(far[0], far[1], alpha=2.0, out=far[2]),
    }
    for size in NEAR:
        pair = [torch.zeros(size // 8, device=DEVICE) for _ in range(2)]  # half of it each
        copy = functools.partial(pair[0].copy_, pair[1])
        made[f"near {size}"] = graphed(functools.partial(_again, COPIES, copy))
    return made


def times_of(timed: Mapping[str, Run]) -> Times:
    """Median times, side by side."""
    turns = in_turns(timed, _SECONDS)
    return {
        name: statistics.median(each for turn in every for each in turn)
        for name, every in turns.items()
    }


def told(times: Times) -> Iterator[dict[str, Any]]:
    """The rates that such times say."""
    yield {"rate": "launch", "ms": times["launches"] / LAUNCHES}
    by_copy, by_triad = (
        arrays * FAR / times[name] * 1e-6 for name, arrays in (("copy", 2), ("triad", 3))
    )
    yield {"rate": "memory", "gbs": max(by_copy, by_triad), "copy": by_copy, "triad": by_triad}
    small, large = (times[f"near {size}"] for size in NEAR)
    longer = large - small
    gbs = COPIES * (NEAR[1] - NEAR[0]) / longer * 1e-6 if longer > 0 else None
    yield {"rate": "cache", "gbs": gbs}


def _again(count: int, run: Callable[[], object]) -> None:
    for _ in range(count):
        run()
