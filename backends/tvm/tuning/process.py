"""The process that tries schedules, from outside: answers as they come, none waited for long."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

START_S = 120.0
"""Until the first answer to a job: TVM is imported, the function compiled."""
SCHEDULE_S = 30.0
"""For one schedule: one that takes longer is no gain."""
CRASHED = "the process that tried it crashed"
MODULE = "sparsecc.backends.tvm.tuning.worker"


class LostError(Exception):
    """The process ended or said nothing for too long."""


class Worker:
    """A process that is started when it is first asked; a context manager that ends it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._jobs = 0

    def answers(self, job: Mapping[str, Any], until: float) -> Iterator[dict[str, Any]]:
        """What it says to a job, up to a time of ``time.monotonic``; then it is ended.

        Raises:
            LostError: It crashed or hangs; the next job starts another.
        """
        self._start()
        self._jobs += 1
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({**job, "number": self._jobs}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            self.end()
            raise LostError(CRASHED) from error
        patience = START_S
        while True:
            left = until - time.monotonic()
            try:
                line = self._lines.get(timeout=max(0.0, min(patience, left)))
            except queue.Empty:
                self.end()
                if left > patience:
                    raise LostError(f"no answer in {patience:g} s") from None
                return
            if not line:
                self.end()
                raise LostError(CRASHED)
            answer: dict[str, Any] = json.loads(line)
            if answer.pop("number") != self._jobs:
                continue  # of a job that nobody waited for
            if "end" in answer:
                return
            patience = SCHEDULE_S if "direct" not in answer else START_S
            yield answer

    def _start(self) -> None:
        if self._process is not None:
            return
        self._lines = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=_pump, args=(self._process, self._lines), daemon=True).start()

    def end(self) -> None:
        """End the process at once, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()


def _pump(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")
