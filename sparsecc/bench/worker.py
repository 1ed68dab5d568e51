"""The process that runs one side of a comparison. Needs numpy and onnxruntime, nothing else.

Started by path, so that its memory is that of the model and not that of sparsecc. It speaks one
JSON object per line, the job (see `Job`) first::

    the job       →  {"outputs": ["y"]}      names of the outputs written, once it has run
    {"runs": 20}  →  {"ms": [1.93, …], "cores": 1.0}
                                             20 timed runs, and how many cores were busy meanwhile
    {}            →  {"peak_rss_mb": 91.5}   and the process ends

A mistake of the model or its library is answered by {"error": "…"}.

With the path of a Python file as its argument another runtime takes the place of ONNX Runtime: the
file defines `open_side`, like the one here.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np

if TYPE_CHECKING:
    import onnxruntime as ort

Arrays = dict[str, Any]
"""numpy arrays by name; a runtime may have other outputs too, which are passed over."""
Side = tuple[Callable[[], Any], Callable[[Any], Arrays]]
"""What is timed, and what makes the outputs of its result."""


class Job(TypedDict):
    """What a worker runs.

    Attributes:
        model: Path of the ONNX file.
        library: Path of the custom-op library, or None for stock ONNX Runtime.
        threads: Threads inside one operator.
        names: Names of the inputs.
        inputs: npz file with the array of each name, as numpy numbers them (``arr_0``, …).
        outputs: npz file to write the outputs of one run to, numbered likewise.
        settings: Whatever else another runtime needs.
    """

    model: str
    library: str | None
    threads: int
    names: list[str]
    inputs: str
    outputs: str
    settings: NotRequired[dict[str, Any]]


def open_session(job: Job) -> ort.InferenceSession:
    """The session of a job, on the processor, with its threads set."""
    import onnxruntime as ort  # here, because a process of another runtime has none

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = job["threads"]
    options.inter_op_num_threads = 1
    # Threads may spin while a run lasts, as they do for any user, but not into the other side's
    # turn, where they would hold a core.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if job["library"] is not None:
        options.register_custom_ops_library(job["library"])
    return ort.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])


def open_side(job: Job, feeds: Arrays) -> Side:
    """A job in ONNX Runtime."""
    session = open_session(job)
    names = [output.name for output in session.get_outputs()]
    return lambda: session.run(None, feeds), lambda result: dict(zip(names, result, strict=True))


def peak_rss_mb() -> float:
    """Most memory this process ever had resident, MB."""
    try:
        # Not ru_maxrss: Linux lets a child start from the peak of the process that made it.
        with open("/proc/self/status") as status:
            peak_kb = next(line for line in status if line.startswith("VmHWM")).split()[1]
        return int(peak_kb) / 1024
    except OSError:
        import resource  # absent on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def serve(
    commands: IO[str], answers: IO[str], opened: Callable[[Job, Arrays], Side] = open_side
) -> None:
    """Answer commands until the one to stop."""

    def answer(**message: Any) -> None:
        print(json.dumps(message), file=answers, flush=True)

    job: Job = json.loads(commands.readline())
    try:
        with np.load(job["inputs"], allow_pickle=False) as arrays:
            feeds = {name: arrays[f"arr_{i}"] for i, name in enumerate(job["names"])}
        run, read = opened(job, feeds)
        outputs = read(run())
    except Exception as error:  # whatever the runtime raises becomes the other side's message
        answer(error=str(error).strip() or type(error).__name__)
        return
    numbers = {name: value for name, value in outputs.items() if _is_numeric(value)}
    np.savez(job["outputs"], *numbers.values())
    answer(outputs=list(numbers))
    for line in commands:
        runs = json.loads(line).get("runs")
        if runs is None:
            break
        busy, start = time.process_time(), time.perf_counter()
        times = [_timed(run) for _ in range(runs)]
        cores = (time.process_time() - busy) / (time.perf_counter() - start)
        answer(ms=times, cores=cores)
    answer(peak_rss_mb=peak_rss_mb())


def _is_numeric(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def _timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    # What a library prints must not land between the answers.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, pipe, *(runpy.run_path(path)["open_side"] for path in sys.argv[1:]))
