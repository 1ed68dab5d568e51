"""One side of a comparison that ONNX Runtime does not run: an artifact with its own engine.

Read by path by ``worker.py``; the job's model is the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.engines import open_engine
from sparsecc.manifest import read_manifest

if TYPE_CHECKING:
    from sparsecc.bench.worker import Arrays, Job, Side


def open_side(job: Job, feeds: Arrays) -> Side:
    """A job in the engine of its artifact."""
    folder = Path(job["model"])
    session = open_engine(folder, read_manifest(folder))
    names = [output.name for output in session.get_outputs()]
    return lambda: session.run(None, feeds), lambda result: dict(zip(names, result, strict=True))
