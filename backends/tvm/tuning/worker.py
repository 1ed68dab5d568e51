"""The process that tries schedules: what crashes in it ends nothing but itself.

It reads jobs as lines of JSON and answers with lines of JSON: ``direct`` once, then for each
schedule ``ms`` and ``trace``, or why it ``failed``; at last ``end``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from sparsecc.backends.tvm.load import load
from sparsecc.backends.tvm.objects import machine
from sparsecc.backends.tvm.schedule import registers_of, schedule
from sparsecc.backends.tvm.tuning.file import refused
from sparsecc.backends.tvm.tuning.space import Search, applied, trace_of
from sparsecc.backends.tvm.tuning.timed import Timed, Values, agree
from sparsecc.errors import first_line
from sparsecc.targets import Target

ROUNDS = 9
"""In which a schedule takes turns with the direct one."""
Say = Callable[[dict[str, Any]], None]


def serve(job: dict[str, Any], say: Say) -> None:
    """Do one job: search for schedules, or compare a given one."""
    target = Target.from_json(job["target"])
    function = load().ir.load_json(job["function"])
    values = Values(function, job["sizes"])
    direct = Timed(schedule(function, registers_of(target)).function, values, target)
    best = direct.ms(float("inf"))
    wanted = values.results()
    say({"direct": best})

    def tried(trace: list[Any]) -> Timed | None:
        """Code of a schedule that computes what the direct one does; else says why not."""
        try:
            if why := refused(trace):
                raise ValueError(why)
            made = Timed(applied(function, trace), values, target)
            values.clear()
            made.run()
            if not agree(values.results(), wanted):
                raise ValueError("another result")
        except Exception as error:
            say({"failed": first_line(error)})
            return None
        return made

    if "trace" in job:
        other = tried(job["trace"])
        if other is not None:
            say(_compared(direct, other) | {"trace": job["trace"]})
    else:
        _search(function, target, job["seed"], best, tried, say)
    say({"end": True})


def _search(function: Any, target: Target, seed: int, best: float, tried: Any, say: Say) -> None:
    search = Search(function, machine(target), seed)
    for batch in search.batches():
        times: list[float | None] = []
        for candidate in batch:
            trace = trace_of(candidate.sch)
            made = tried(trace)
            times.append(None if made is None else made.ms(best))
            if times[-1] is not None:
                best = min(best, times[-1])
                say({"ms": times[-1], "trace": trace})
        search.tell(batch, times)


def _compared(direct: Timed, other: Timed) -> dict[str, float]:
    """Medians of two that take turns."""
    pairs = [(direct.ms(float("inf")), other.ms(float("inf"))) for _ in range(ROUNDS)]
    first, second = (sorted(each)[ROUNDS // 2] for each in zip(*pairs, strict=True))
    return {"direct": first, "ms": second}


def _lines() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def main() -> None:
    """Serve jobs until there are no more."""
    for job in _lines():

        def say(answer: dict[str, Any], number: int = job["number"]) -> None:
            print(json.dumps({**answer, "number": number}), flush=True)

        try:
            serve(job, say)
        except Exception as error:
            say({"failed": first_line(error)})
            say({"end": True})


if __name__ == "__main__":
    main()
