"""Times of functions on a GPU that take turns, by the events of its stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from benchmarks.rows import Turns

Run = Callable[[], object]
DEVICE = "cuda"
_WARM = 3
_FEWEST, _MOST = 5, 30
"""Rounds."""
_TURN_MS = 10.0
"""A turn repeats what is quicker."""


def in_turns(sides: Mapping[str, Run], seconds: float) -> dict[str, Turns]:
    """Times of each side, ms, round by round; the one that goes first changes with every round.

    Args:
        sides: What is timed, by name.
        seconds: About how long all of it takes, beside warming up.
    """
    names = list(sides)
    runs = {name: _runs(sides[name]) for name in names}
    round_ms = sum(ms * count for ms, count in runs.values())
    rounds = round(max(_FEWEST, min(_MOST, 1e3 * seconds / round_ms)))
    turns: dict[str, list[list[float]]] = {name: [] for name in names}
    for number in range(rounds):
        for at in range(len(names)):
            name = names[(at + number) % len(names)]
            turns[name].append([_time(sides[name], runs[name][1])])
    return dict(turns)


def _runs(side: Run) -> tuple[float, int]:
    """Time of a warm run, and how many fill a turn."""
    for _ in range(_WARM):
        side()
    ms = _time(side, 1)
    return ms, max(1, round(_TURN_MS / max(ms, 1e-3)))


def _time(side: Run, count: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        side()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / count


def graphed(run: Run) -> Run:
    """The same, captured once and replayed, so that what Python needs to start it is not timed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
