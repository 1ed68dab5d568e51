"""A worker process as an object: start, time some runs, stop."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sparsecc.bench.worker import Job
from sparsecc.errors import BackendError

_WORKER = Path(__file__).with_name("worker.py")
_LONGEST_MESSAGE = 800


class Worker:
    """A process that holds one session; a context manager that ends it.

    Args:
        title: What it runs, for messages.
        job: Its model, library, threads and files.

    Raises:
        BackendError: ONNX Runtime refused the model or its inputs, or the process died.
    """

    def __init__(self, title: str, job: Job) -> None:
        self._title = title
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            names = self._ask(job)["outputs"]
        except BaseException:
            self._end()
            raise
        with np.load(job["outputs"], allow_pickle=False) as arrays:
            self.outputs: dict[str, NDArray[Any]] = {
                name: arrays[f"arr_{i}"] for i, name in enumerate(names)
            }

    def time(self, runs: int) -> list[float]:
        """Wall time of each of `runs` runs, ms."""
        return [float(ms) for ms in self._ask({"runs": runs})["ms"]]

    def stop(self) -> float:
        """End the process; returns the most memory it had resident, MB."""
        return float(self._ask({})["peak_rss_mb"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _ask(self, command: Job | dict[str, int]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            raise BackendError(f"{self._title}: {answer['error'][:_LONGEST_MESSAGE]}")
        return answer

    def _last_words(self) -> str:
        """Why the process ended without an answer."""
        code = self._process.wait()
        self._log.seek(0)
        log = self._log.read().decode(errors="replace").strip().splitlines()
        return "\n".join([f"the process that ran it ended with code {code}", *log[-3:]])

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


__all__ = ["Worker"]
