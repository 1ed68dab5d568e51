"""Bundles whose host has threads: tasks side by side, memory asked for from all of them."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_uint64, c_void_p
from pathlib import Path

import numpy as np
import pytest

from benchmarks import build, spec
from sparsecc import targets
from sparsecc.backends.bundle import run
from sparsecc.backends.bundle.build import build_bundle
from sparsecc.backends.bundle.run import Memory, open_bundle
from tests.passes.regions.wholes import made

TOLERANCE = 1e-5
THREADS = 3
Task = CFUNCTYPE(None, c_void_p, c_uint64)
Parallel = CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_uint64, c_void_p)


def parallel(_: int | None, task: int, count: int, data: int | None) -> None:
    """Each thread takes every third task; ctypes lets the others run meanwhile."""
    call: Callable[[int | None, int], None] = Task(task)

    def work(first: int) -> None:
        for at in range(first, count, THREADS):
            call(data, at)

    others = [threading.Thread(target=work, args=(first,)) for first in range(1, THREADS)]
    for thread in others:
        thread.start()
    work(0)
    for thread in others:
        thread.join()


class Threaded(Memory):
    """A host with threads."""

    last: Threaded

    def __init__(self) -> None:
        super().__init__()
        self.parallel = Parallel(parallel)
        self.host.parallel = ctypes.cast(self.parallel, c_void_p)
        Threaded.last = self


@pytest.mark.parametrize(
    ("name", "side", "pattern"),
    [("mobilenet_v1", 160, "4x1:0.8"), ("resnet18", 64, "unstructured:0.9"), ("vit_tiny", 64, "")],
)
def test_threads_compute_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, side: int, pattern: str
) -> None:
    layers = spec.shrink(spec.load(name), 0.25, side)
    model, feeds = build.build(layers, *([pattern] if pattern else [])), build.inputs(layers)
    target = targets.TARGETS["x86-64"]
    if not targets.runs_here(target):
        pytest.skip(f"this machine does not run {target.name}")
    build_bundle(made(model)[0], target, "model", tmp_path)
    (want,) = open_bundle(tmp_path).run(None, feeds)
    monkeypatch.setattr(run, "Memory", Threaded)
    session = open_bundle(tmp_path)
    for _ in range(5):
        (got,) = session.run(None, feeds)
        assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()
    session.__del__()
    assert not Threaded.last.held
