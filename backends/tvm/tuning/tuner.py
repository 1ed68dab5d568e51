"""Tuning of one compilation: which functions, for how long, and what becomes of them."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsecc.backends.tvm.load import PINS, load
from sparsecc.backends.tvm.objects import machine
from sparsecc.backends.tvm.products import Registers
from sparsecc.backends.tvm.schedule import Scheduled, schedule
from sparsecc.backends.tvm.tuning import file
from sparsecc.backends.tvm.tuning.process import LostError, Worker
from sparsecc.backends.tvm.tuning.space import applied, sizes_in
from sparsecc.errors import TuningError
from sparsecc.manifest import TUNING_NAME
from sparsecc.passes.base import Refusal
from sparsecc.progress import Progress
from sparsecc.quality.effort import Effort
from sparsecc.targets import Target

PASS_NAME = "tune"
SMALL_MS = 0.02
"""Functions that take less are not worth it."""
GAIN = 0.97
"""A schedule is taken that takes at most so much of the direct one's time."""
LIVES = 3
"""Processes that may crash over one function."""
LEAST_S = 5.0
"""Of time for one function; there is no sense in less."""


class Tuner:
    """Schedules for the functions of one compilation, and where they come from.

    Args:
        target: This machine runs it.
        asked: How long to tune, or the file of a database from which schedules are taken alone.
        seed: Of the search.
        progress: Told the function at hand and its best time.

    Raises:
        TuningError: The database cannot be read.
    """

    def __init__(self, target: Target, asked: Effort | Path, seed: int, progress: Progress) -> None:
        self.target, self.asked, self.seed, self.progress = target, asked, seed, progress
        self.path = asked if isinstance(asked, Path) else file.own_path(target)
        given = isinstance(asked, Path) or self.path.exists()
        self.known = file.read(self.path, target) if given else {}
        self.used: dict[str, file.Entry] = {}
        self.notes: list[Refusal] = []

    def choose(self, functions: Sequence[tuple[str, Any]]) -> None:
        """Find a schedule for each function that has a name and sizes that are known.

        Raises:
            TuningError: There is too little time, or the database is wrong about a function.
        """
        wanted: dict[str, tuple[str, Any]] = {}
        for name, function in functions:
            if sizes_in(function):
                self._note(name, "its sizes are open, and only loops of known length are tuned")
            elif str(function.body.block.name_hint) == "root":
                wanted.setdefault(self._key(function), (name, function))
        with Worker() as worker:
            for key in wanted.keys() & self.known.keys():
                self._check(worker, *wanted[key], self.known[key])
            missing = {key: each for key, each in wanted.items() if key not in self.known}
            if missing and isinstance(self.asked, Effort):
                self._tune(worker, missing, self.asked)
        for key, (name, _) in wanted.items():
            if entry := self.known.get(key):
                self.used[key] = entry
                self._tell(name, entry)
            else:
                timed = isinstance(self.asked, Effort)
                why = "it could not be timed in the time given" if timed else "the file lacks it"
                self._note(name, f"keeps its direct schedule: {why}")

    def schedule(self, function: Any, registers: Registers) -> Scheduled:
        """The loops of a function: tuned where that was found to be quicker, else direct."""
        entry = None if sizes_in(function) else self.used.get(self._key(function))
        if entry is None or entry.trace is None:
            return schedule(function, registers)
        return Scheduled(applied(function, entry.trace), ())

    def save(self, folder: Path) -> None:
        """Write what was used into an artifact, as a database of its own."""
        entries = [self.used[key] for key in sorted(self.used)]
        file.write(folder / TUNING_NAME, self.target, entries)

    def _key(self, function: Any) -> str:
        content = (load().ir.save_json(function), str(machine(self.target)), sorted(PINS.items()))
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def _job(self, function: Any) -> dict[str, Any]:
        text = load().ir.save_json(function)
        return {"function": text, "sizes": {}, "target": self.target.to_json()}

    def _note(self, name: str, reason: str) -> None:
        self.notes.append(Refusal(PASS_NAME, name, reason))

    def _tell(self, name: str, entry: file.Entry) -> None:
        if entry.trace is None:
            tuned = entry.tuned_ms
            best = "none ran as quick" if tuned is None else f"the best took {tuned} ms"
            direct = f"its direct schedule, {entry.direct_ms} ms"
            self._note(name, f"keeps {direct}: of {entry.tried} others {best}")

    def _check(self, worker: Worker, name: str, function: Any, entry: file.Entry) -> None:
        """That a schedule of a database is one of this function; in a process that may crash."""
        if entry.trace is None:
            return
        why = "it could not be tried"
        try:
            job = self._job(function) | {"trace": entry.trace}
            for answer in worker.answers(job, time.monotonic() + 600):
                why = str(answer.get("failed", "")) if "direct" not in answer else why
                if "ms" in answer:
                    return
        except LostError as error:
            why = str(error)
        raise TuningError(f"{self.path} is wrong about {name}: {why}", fix=file.FILE.fix)

    def _tune(self, worker: Worker, missing: dict[str, tuple[str, Any]], effort: Effort) -> None:
        begun, share = time.monotonic(), 0.0
        seconds = effort.seconds or float("inf")
        if seconds < LEAST_S:
            raise TuningError(
                f"{seconds:g} s is too little to tune in", fix=f"give at least {LEAST_S:g}s"
            )
        try:
            for at, (key, (name, function)) in enumerate(missing.items()):
                share = at / len(missing)
                left = seconds - (time.monotonic() - begun)
                if left <= 0:
                    break
                until = time.monotonic() + max(LEAST_S, left / (len(missing) - at))
                entry = self._one(worker, key, name, function, until, effort.steps, share)
                if entry is not None:
                    self.known[key] = entry
        finally:  # what an interruption leaves is kept
            with contextlib.suppress(OSError):  # writing says what is wrong
                self.path.parent.mkdir(parents=True, exist_ok=True)
            file.write(self.path, self.target, self.known.values())

    def _one(
        self,
        worker: Worker,
        key: str,
        name: str,
        function: Any,
        until: float,
        steps: int | None,
        share: float,
    ) -> file.Entry | None:
        """The best of the schedules that there is time for; None where nothing was measured."""
        direct, best, trace, tried = 0.0, float("inf"), None, 0
        most = steps or (1 << 30)
        for life in range(LIVES):
            job = self._job(function) | {"seed": self.seed + life}
            try:
                for answer in worker.answers(job, until):
                    if "direct" in answer:
                        direct = float(answer["direct"])
                        if direct < SMALL_MS:
                            worker.end()
                            break
                        continue
                    tried += 1
                    if float(answer.get("ms", best)) < best:
                        best, trace = float(answer["ms"]), answer["trace"]
                    shown = min(best, direct)
                    said = f"tuning {name}: {shown:.3f} ms, directly {direct:.3f} ({tried} tried)"
                    self.progress(said, share)
                    if tried >= most:
                        worker.end()
                        break
                break
            except LostError:
                tried += 1
        if not direct:
            return None
        return self._judged(worker, key, name, function, (direct, best, trace, tried))

    def _judged(
        self, worker: Worker, key: str, name: str, function: Any, found: tuple[Any, ...]
    ) -> file.Entry:
        """An entry of the database, after the two took turns."""
        direct, best, trace, tried = found
        tuned = None
        if trace is not None and best < direct:
            try:
                job = self._job(function) | {"trace": trace}
                for answer in worker.answers(job, time.monotonic() + 600):
                    if "ms" in answer:
                        direct, tuned = answer["direct"], answer["ms"]
            except LostError:
                trace = None
        elif trace is not None:
            tuned = best
        kept = trace if tuned is not None and tuned <= GAIN * direct else None
        return file.Entry(
            key=key,
            name=name[:200],
            direct_ms=round(direct, 5),
            tuned_ms=None if tuned is None else round(tuned, 5),
            tried=tried,
            trace=kept,
        )


__all__ = ["Tuner"]
