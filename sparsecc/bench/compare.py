"""An artifact against a baseline, measured in turns."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc import targets
from sparsecc.artifact import open_artifact
from sparsecc.backends.onnxruntime.run import check_runs_here
from sparsecc.bench.process import Worker
from sparsecc.bench.result import PORTABLE, BenchResult, Round, summarise
from sparsecc.bench.turns import take_turns
from sparsecc.bench.worker import Job
from sparsecc.engines import open_engine
from sparsecc.errors import BackendError, ModelError, TargetError
from sparsecc.manifest import MODEL_NAME, Manifest
from sparsecc.measure import max_rel_error
from sparsecc.progress import Progress, silent
from sparsecc.quality.calibration import Feed, load_calibration
from sparsecc.quality.example_inputs import InputSpec, example_inputs, input_specs
from sparsecc.quality.samples.numpy_files import read_npz
from sparsecc.reference import model_of
from sparsecc.state import Sampling, outputs_of

Inputs = Mapping[str, NDArray[Any]] | str | os.PathLike[str]
"""Arrays by input name, or the npz file that holds them."""

ENGINE = Path(__file__).with_name("engine_side.py")
"""What a worker reads to run an artifact with its own engine."""


def compare(
    artifact: str | os.PathLike[str],
    baseline: str | os.PathLike[str] | None = None,
    *,
    inputs: Inputs | None = None,
    threads: int = 1,
    seconds: float = 10.0,
    progress: Progress = silent,
) -> BenchResult:
    """Time an artifact and a baseline side by side, each in a process of its own.

    The two take turns, so that a machine that slows down slows both; which one goes first
    changes with every round. Each sees the same inputs. An artifact that searches blocks of
    attention online is timed at a call that keeps what was found before.

    Args:
        artifact: Artifact folder.
        baseline: ONNX file to run on stock ONNX Runtime; by default the artifact itself without
            its library, which computes the same densely. One without ONNX Runtime needs a baseline.
        inputs: What to feed; made up if not given.
        threads: Threads of each side.
        seconds: About how long to measure; three rounds are run however slow the models are.
        progress: Told how far it is.

    Raises:
        ArtifactError: The artifact is missing, incomplete or altered.
        TargetError: The artifact is for another kind of processor.
        ModelError: The baseline is not a model, or has other inputs than the artifact.
        CalibrationError: The inputs do not fit the model.
        BackendError: A runtime refuses one of the two, or runs on one thread alone.
    """
    folder = Path(artifact)
    manifest = open_artifact(folder)
    if manifest.library is not None:
        check_runs_here(manifest)
    if not manifest.has_model:
        _check_alone(folder, manifest, baseline is None, threads)
    ours = folder / MODEL_NAME if manifest.has_model else folder
    model = interface(folder, manifest)
    theirs = ours if baseline is None else _checked_baseline(Path(baseline), input_specs(model))
    library = None if manifest.library is None else str(folder / manifest.library)
    feeds = feeds_of(inputs, model)
    with_state = behind_a_search(folder, manifest, feeds)
    with tempfile.TemporaryDirectory(prefix="sparsecc-bench-") as scratch:
        jobs = [
            _job(path, its_library, threads, fed, Path(scratch) / side)
            for path, its_library, fed, side in (
                (ours, library, with_state, "ours"),
                (theirs, None, with_state if baseline is None else feeds, "baseline"),
            )
        ]
        progress("opening the artifact", 0.0)
        with Worker(str(folder), jobs[0], runtime=None if manifest.has_model else ENGINE) as left:
            progress("opening the baseline", 0.0)
            with Worker(str(baseline or f"{folder} without its library"), jobs[1]) as right:
                turns = take_turns((left, right), seconds, progress)
                rounds = [Round(ours, theirs) for ours, theirs in turns]
                memory = left.stop(), right.stop()
    return summarise(
        rounds,
        threads=threads,
        peak_rss_mb=memory,
        baseline=PORTABLE if baseline is None else str(baseline),
        max_rel_difference=_difference(left.outputs, right.outputs),
    )


def _job(model: Path, library: str | None, threads: int, feeds: Feed, folder: Path) -> Job:
    """One side, its inputs written into a folder of its own."""
    folder.mkdir()
    np.savez(folder / "inputs.npz", *feeds.values())
    return Job(
        model=str(model),
        library=library,
        threads=threads,
        names=list(feeds),
        inputs=str(folder / "inputs.npz"),
        outputs=str(folder / "outputs.npz"),
    )


def behind_a_search(folder: Path, manifest: Manifest, feeds: Feed) -> Feed:
    """Inputs with the state of a call that keeps what a search found, where there is a state.

    Raises:
        ModelError: The artifact does not run on these inputs.
    """
    sampling = Sampling.of(manifest)
    if sampling is None:
        return feeds
    searching = {**feeds, **sampling.begun(sampling.full)}
    found = outputs_of(open_engine(folder, manifest), searching)
    return {**feeds, **sampling.following(sampling.after, found)}


def _is_timed_here(manifest: Manifest) -> bool:
    """Whether what runs it here takes the time it takes where it belongs."""
    target = targets.described(manifest.target, manifest.hardware)
    return target.family == "wasm" or targets.runs_here(target)


def _check_alone(folder: Path, manifest: Manifest, without_baseline: bool, threads: int) -> None:
    """What an artifact without ONNX Runtime can be measured with."""
    if without_baseline:
        raise ModelError(
            f"there is no model in {folder} that ONNX Runtime could run beside it",
            fix="pass the model it was compiled from as the baseline",
        )
    if not _is_timed_here(manifest):
        raise TargetError(
            f"{folder} is for {manifest.target}: how fast that is cannot be measured here",
            fix="measure it on such a machine",
        )
    if threads != 1:
        raise BackendError(
            f"{folder} is measured on one thread", fix="leave out the number of threads"
        )


def _checked_baseline(path: Path, specs: list[InputSpec]) -> Path:
    if path.is_dir():
        raise ModelError(f"{path} is a folder", fix="pass the ONNX file to compare with")
    theirs = input_specs(path)
    if not _match(specs, theirs):
        raise ModelError(
            f"{path} has other inputs than the artifact: it takes {_listed(theirs)}; the artifact "
            f"takes {_listed(specs)}",
            fix="pass the model the artifact was compiled from",
        )
    return path


def _match(ours: list[InputSpec], theirs: list[InputSpec]) -> bool:
    other = {spec.name: spec for spec in theirs}
    return other.keys() == {spec.name for spec in ours} and all(
        spec.fits(other[spec.name]) for spec in ours
    )


def _listed(specs: list[InputSpec]) -> str:
    return ", ".join(map(str, specs)) or "nothing"


def interface(folder: Path, manifest: Manifest) -> ir.Model:
    """A model with the inputs of an artifact, its own where there is one; without its state."""
    model = ir.load(folder / MODEL_NAME) if manifest.has_model else model_of(manifest.inputs)
    carried = {each.name for each in manifest.state}
    for value in [value for value in model.graph.inputs if value.name in carried]:
        model.graph.inputs.remove(value)
    return model


def feeds_of(inputs: Inputs | None, model: ir.Model) -> Feed:
    """What to feed a model: what is given, once it fits, or made-up inputs."""
    if inputs is None:
        return example_inputs(model)
    arrays = inputs if isinstance(inputs, Mapping) else read_npz(Path(inputs))
    return load_calibration([arrays], model).train[0]


def _difference(ours: dict[str, NDArray[Any]], theirs: dict[str, NDArray[Any]]) -> float | None:
    """Largest relative difference of outputs that correspond; None when that says nothing."""
    names = [name for name in ours if name in theirs and ours[name].shape == theirs[name].shape]
    worst = max_rel_error([ours[name] for name in names], [theirs[name] for name in names])
    return worst if names and math.isfinite(worst) else None


__all__ = ["ENGINE", "PORTABLE", "Inputs", "behind_a_search", "compare", "feeds_of", "interface"]
