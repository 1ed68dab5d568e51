"""A worker process as an object: start, time some runs, stop."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
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

    Attributes:
        outputs: What the first run gave, by name.
        cores: How many cores were busy during each call of `time`.

    Args:
        title: What it runs, for messages.
        job: Its model, library, threads and files.
        python: Interpreter to run it in; by default this one.
        runtime: File that defines the `open_side` of another runtime than ONNX Runtime.
        environment: Environment variables; by default those of this process.
        limit_s: End the process when opening takes longer; by default it may take any time.

    Raises:
        BackendError: The runtime refused the model or its inputs, or the process died.
    """

    def __init__(
        self,
        title: str,
        job: Job,
        *,
        python: Path | None = None,
        runtime: Path | None = None,
        environment: Mapping[str, str] | None = None,
        limit_s: float | None = None,
    ) -> None:
        self._title = title
        self.cores: list[float] = []
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [python or sys.executable, "-P", _WORKER, *([runtime] if runtime else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        alarm = threading.Timer(limit_s or 0, self._process.kill)
        if limit_s is not None:
            alarm.start()
        try:
            names = self._ask(job)["outputs"]
        except BaseException:
            self.end()
            raise
        finally:
            alarm.cancel()
        with np.load(job["outputs"], allow_pickle=False) as arrays:
            self.outputs: dict[str, NDArray[Any]] = {
                name: arrays[f"arr_{i}"] for i, name in enumerate(names)
            }

    def time(self, runs: int) -> list[float]:
        """Wall time of each of `runs` runs, ms."""
        answer = self._ask({"runs": runs})
        self.cores.append(float(answer["cores"]))
        return [float(ms) for ms in answer["ms"]]

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
        self.end()

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

    def end(self) -> None:
        """End the process at once, whatever it does."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


__all__ = ["Worker"]
