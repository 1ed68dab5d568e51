"""Any number of processes, taking turns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from sparsecc.bench.process import Worker
from sparsecc.progress import Progress, silent

_ROUNDS = 20  # aimed at: enough for quartiles, each long enough to be warm
_FEWEST_ROUNDS = 3
_MOST_RUNS = 1000  # of one turn


def take_turns(
    sides: Sequence[Worker], seconds: float, progress: Progress = silent, pause_s: float = 0.0
) -> Iterator[list[list[float]]]:
    """Rounds until the time is up; a first, uncounted one warms every side up.

    Args:
        sides: Who takes turns; the one that goes first changes with every round.
        seconds: About how long to measure; three rounds are run however slow the sides are.
        progress: Told how far it is.
        pause_s: Time before each turn, in which threads of the side before stop spinning.

    Yields:
        Times of every side's runs, ms, in the order of `sides`.
    """
    turn_ms = seconds * 1e3 / (len(sides) * _ROUNDS)
    runs = [_runs(side, turn_ms) for side in sides]
    start, done = time.monotonic(), 0
    while done < _FEWEST_ROUNDS or time.monotonic() - start < seconds:
        progress("measuring", min((time.monotonic() - start) / seconds, 1.0))
        times: list[list[float]] = [[] for _ in sides]
        for turn in range(len(sides)):
            which = (turn + done) % len(sides)
            time.sleep(pause_s)
            times[which] = sides[which].time(runs[which])
        yield times
        done += 1
    progress("measuring", 1.0)


def _runs(side: Worker, turn_ms: float) -> int:
    """How many runs fill a turn of a warm model."""
    side.time(2)
    return max(1, min(_MOST_RUNS, round(turn_ms / min(side.time(3)))))


__all__ = ["take_turns"]
