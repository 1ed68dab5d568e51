"""Where work on many layers runs: in this process, in processes beside it, or on a Ray cluster.

Results and errors are the same everywhere. Numerical libraries get one thread for an item, also
in this process: otherwise workers would fight over the cores, and sums would depend on how many
threads made them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import socket
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar, get_args

from threadpoolctl import threadpool_limits

from sparsecc.errors import BackendError, SparseccError

Item = TypeVar("Item")
Result = TypeVar("Result")
Where = Literal["serial", "processes", "ray"]
WHERES: tuple[Where, ...] = get_args(Where)

_AHEAD = 2
"""Items per worker that are handed out before the oldest has come back."""
_KNOCK_SECONDS = 5.0
_RAY_RETRIES = 3
"""Times that Ray repeats an item whose worker was lost."""


@dataclasses.dataclass(frozen=True)
class _Failure:
    """What went wrong in a worker, and where, as text."""

    error: Exception
    trace: str


@dataclasses.dataclass(frozen=True)
class Executor:
    """Runs a function for many items; made by :func:`open_executor`.

    Attributes:
        workers: How many items are worked on at a time.
    """

    workers: int
    _submit: Callable[[Callable[[Any], Any], Any], Callable[[], Any]]
    _ahead: int

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        name: Callable[[Item], str] = str,
    ) -> Iterator[Result]:
        """Results in the order of the items, each as soon as it and those before it are there.

        Args:
            function: What is done to an item. Other processes get copies of it, of the item and of
                the result; on a cluster of several machines its module must be installed on each.
            items: What it is done to; taken as workers come free.
            name: Of an item, for errors.

        Raises:
            BackendError: A worker was lost, and Ray lost it again and again.
            Exception: What the function raised. A :class:`SparseccError` begins with the item's
                name, others have a note with it and with the worker's traceback.
        """
        waiting: deque[tuple[str, Callable[[], Any]]] = deque()
        for item in items:
            waiting.append((name(item), self._submit(function, item)))
            if len(waiting) >= self._ahead:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())


@contextlib.contextmanager
def open_executor(where: Where = "processes", workers: int | None = None) -> Iterator[Executor]:
    """An executor, and an end to its workers when the block ends.

    Args:
        where: ``serial`` is this process; ``processes`` are started beside it and need no guard of
            the main module; ``ray`` is the cluster that the variable RAY_ADDRESS names, or else
            one that is started on this machine.
        workers: How many, by default as many as there are cores. A running Ray cluster has its own.

    Raises:
        ValueError: There is no such place, or the number is not positive.
        BackendError: Ray is not installed or cannot be reached.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"{workers} workers")
    places = {"serial": _serial, "processes": _processes, "ray": _ray}
    if where not in places:
        raise ValueError(f"no executor {where!r}; one of {', '.join(places)}")
    with places[where](workers or os.cpu_count() or 1) as executor:
        yield executor


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Results in the order of the items, of threads of this process.

    For work in numpy on arrays that are too large to be copied to other processes.
    """
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(function, items))


@contextlib.contextmanager
def _serial(workers: int) -> Iterator[Executor]:
    yield SERIAL


@contextlib.contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    # Costs a tenth of a second to import, which those who compile without a search should not pay.
    from loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

    pool = ProcessPoolExecutor(workers)

    def submit(function: Callable[[Any], Any], item: Any) -> Callable[[], Any]:
        try:
            future = pool.submit(_call, function, item)
        except BrokenProcessPool as error:
            raise _lost("a worker process", error) from error

        def wait() -> Any:
            try:
                return future.result()
            except BrokenProcessPool as error:
                raise _lost("a worker process", error) from error

        return wait

    try:
        yield Executor(workers, submit, workers * _AHEAD)
    finally:
        pool.shutdown(kill_workers=True)  # only what nobody waits for any more is still running


@contextlib.contextmanager
def _ray(workers: int) -> Iterator[Executor]:
    try:
        import ray
    except ImportError as error:
        raise BackendError(
            "running on a Ray cluster needs ray", fix="pip install 'sparsecc[ray]'"
        ) from error
    started = not ray.is_initialized()
    if started:
        _start_ray(ray, workers)
    remote = ray.remote(num_cpus=1, max_retries=_RAY_RETRIES)(_call)

    def submit(function: Callable[[Any], Any], item: Any) -> Callable[[], Any]:
        reference = remote.remote(function, item)

        def wait() -> Any:
            try:
                return ray.get(reference)
            except ray.exceptions.RayTaskError:
                raise  # what came of the call itself, such as a result that cannot be copied
            except ray.exceptions.RayError as error:
                raise _lost("a worker of the Ray cluster", error) from error

        return wait

    try:
        cores = max(int(ray.cluster_resources().get("CPU", 1)), 1)
        yield Executor(cores, submit, cores * _AHEAD)
    finally:
        if started:
            ray.shutdown()


def _start_ray(ray: Any, workers: int) -> None:
    address = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told what is compiled here
    local = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        if address:
            _knock(address)
        ray.init(log_to_driver=False, logging_level="ERROR", **local)
    except (OSError, RuntimeError, ValueError) as error:
        where = f"at {address}" if address else "on this machine"
        raise BackendError(
            f"no Ray cluster {where}: {error}",
            fix="set RAY_ADDRESS to a running cluster, or run in processes",
        ) from error


def _knock(address: str) -> None:
    """Fails in seconds where nobody listens; Ray itself takes minutes to give up."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    """In the worker: the result, or a failure that can be sent back."""
    try:
        with threadpool_limits(1):
            return function(item)
    except Exception as error:
        trace = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return _Failure(error, trace)


def _result(name: str, wait: Callable[[], Any]) -> Any:
    try:
        outcome = wait()
        if isinstance(outcome, _Failure):
            outcome.error.add_note(outcome.trace)
            raise outcome.error
    except SparseccError as error:
        message = f"{name}: {error.message}"
        raise type(error)(message, node=error.node, fix=error.fix) from error
    except Exception as error:
        error.add_note(f"while working on {name}")
        raise
    return outcome


SERIAL = Executor(1, lambda function, item: lambda: _call(function, item), 1)
"""Works on one item after the other in this process."""


def _lost(what: str, error: Exception) -> BackendError:
    return BackendError(
        f"{what} was lost: {str(error).strip().splitlines()[0]}",
        fix="use fewer workers if memory is short, or run in this process",
    )


__all__ = ["SERIAL", "WHERES", "Executor", "Where", "in_threads", "open_executor"]
