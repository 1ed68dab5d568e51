"""Everything a report wants measured: the whole model in turns, and its layers one by one."""

from __future__ import annotations

import os
from pathlib import Path

from sparsecc.bench.compare import Inputs, behind_a_search, compare, feeds_of, interface
from sparsecc.bench.layers import time_layers
from sparsecc.machine import processor
from sparsecc.manifest import MODEL_NAME, read_manifest
from sparsecc.progress import Progress, part, silent
from sparsecc.report.measured import Measured


def measure(
    artifact: str | os.PathLike[str],
    baseline: str | os.PathLike[str] | None = None,
    *,
    inputs: Inputs | None = None,
    threads: int = 1,
    seconds: float = 10.0,
    progress: Progress = silent,
) -> Measured:
    """Measure an artifact on this machine for its report.

    See :func:`sparsecc.bench.compare` for the arguments and errors; the layers take as long again.
    One without ONNX Runtime is measured as a whole alone.
    """
    folder = Path(artifact)
    whole = compare(
        folder,
        baseline,
        inputs=inputs,
        threads=threads,
        seconds=seconds,
        progress=part(progress, 0.0, 0.5),
    )
    manifest = read_manifest(folder)
    if not manifest.has_model:
        return Measured(processor() or "this machine", whole, {})
    feeds = feeds_of(inputs, interface(folder, manifest))
    layers = time_layers(
        folder / MODEL_NAME,
        folder / manifest.library if manifest.library else None,
        [str(layer["name"]) for layer in manifest.layers],
        behind_a_search(folder, manifest, feeds),
        threads=threads,
        seconds=seconds,
        progress=part(progress, 0.5, 1.0),
    )
    return Measured(processor() or "this machine", whole, layers)


__all__ = ["measure"]
