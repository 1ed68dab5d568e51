"""Times of what is run again and again."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch.distributed as dist


def seconds(call: Callable[[], object], *, budget: float = 0.03, least: int = 5) -> float:
    """Median time of a call, after one that does not count."""
    call()
    times: list[float] = []
    while len(times) < least or (sum(times) < budget and len(times) < 200):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def seconds_together(call: Callable[[], object], runs: int, rounds: int = 5) -> float:
    """Median over rounds of the time of a call that all processes make, one after the other."""
    call()
    times = []
    for _ in range(rounds):
        dist.barrier()
        start = time.perf_counter()
        for _ in range(runs):
            call()
        times.append((time.perf_counter() - start) / runs)
    return statistics.median(times)
