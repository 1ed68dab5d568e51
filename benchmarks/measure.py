"""One model on every engine: prepare, check, and let them take turns.

The engines are ONNX Runtime dense (the baseline), sparsecc and the peers. Each runs in a process of
its own. An engine that cannot be installed, cannot take a model or computes something else gets a
row that says so; it never stops the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

import sparsecc
from benchmarks import build, quantize, spec
from benchmarks.peers import Peer, Setting, UnavailableError
from benchmarks.peers.environment import python_of
from benchmarks.rows import Row, figures
from benchmarks.spec import Layer
from sparsecc.artifact import open_artifact
from sparsecc.bench.process import Worker
from sparsecc.bench.turns import take_turns
from sparsecc.bench.worker import Job
from sparsecc.errors import SparseccError
from sparsecc.manifest import MODEL_NAME

BASELINE, OURS, FLOAT = "onnxruntime", "sparsecc", "onnxruntime-float32"
TITLES = {BASELINE: "ONNX Runtime", OURS: "sparsecc", FLOAT: "ONNX Runtime float32"}
TOLERANCE = 1e-3
OPEN_LIMIT_S = 300.0
CONVERT_LIMIT_S = 600.0
PAUSE_S = 0.02
TRIAL_RUNS = 3
Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """A model that is ready for every engine.

    Attributes:
        model: Its name.
        pattern: Its zeros.
        folder: Where models, artifacts and conversions are kept.
        layers: It as text.
        path: The ONNX file.
        float_path: The same weights in float32; the same file unless the model is eight-bit.
        feeds: Its inputs.
        reference: Its output in ONNX Runtime without graph optimisation.
        compile_s: Time sparsecc took.
        failure: Why sparsecc has no artifact; empty when it has.
    """

    model: str
    pattern: str
    folder: Path
    layers: list[Layer]
    path: Path
    float_path: Path
    feeds: dict[str, NDArray[Any]]
    reference: NDArray[Any]
    compile_s: float
    failure: str

    @property
    def artifact(self) -> Path:
        """Folder of the compiled model."""
        return self.folder / "artifacts" / self.path.stem

    @property
    def inputs(self) -> Path:
        """File of the inputs, as workers read it."""
        return self.folder / "inputs" / f"{self.path.stem}.npz"


@dataclass(frozen=True)
class Entry:
    """An engine whose process waits for its turn.

    Attributes:
        row: Its row without figures.
        worker: Its process.
    """

    row: dict[str, Any]
    worker: Worker


def prepare(
    name: str,
    pattern: str,
    folder: Path,
    say: Say = print,
    layers: Sequence[Layer] | None = None,
) -> Prepared:
    """Builds and compiles a model and computes what everyone must answer.

    Args:
        name: A model of `benchmarks/models`, or what to call `layers`.
        pattern: Its zeros.
        folder: Where everything is kept.
        say: Told what is being done.
        layers: A model that has no file of its own.
    """
    say("building")
    layers = list(layers or spec.load(name))
    path = build.write(name, pattern, folder / "models", layers)
    plain = build.write(name, quantize.float_pattern(pattern), folder / "models", layers)
    feeds = build.inputs(layers)
    reference = unoptimised(path, feeds)
    say("compiling")
    start, failure = time.perf_counter(), ""
    try:
        compiled = sparsecc.compile(path, target="native", sparsity="existing")
        compiled.save(folder / "artifacts" / path.stem)
    except SparseccError as error:
        failure = one_line(error)
    seconds = time.perf_counter() - start
    prepared = Prepared(
        name, pattern, folder, layers, path, plain, feeds, reference, seconds, failure
    )
    prepared.inputs.parent.mkdir(parents=True, exist_ok=True)
    np.savez(prepared.inputs, *feeds.values())
    return prepared


def unoptimised(path: Path, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """The first output of a model in ONNX Runtime without graph optimisation."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def race(
    prepared: Prepared,
    threads: int,
    peers: Sequence[Peer],
    *,
    seconds: float = 2.0,
    say: Say = print,
) -> list[Row]:
    """Times all engines on a model, in turns.

    Args:
        prepared: The model.
        threads: Threads of every engine.
        peers: Who runs beside sparsecc and ONNX Runtime.
        seconds: About how long to measure each engine.
        say: Told what is being done.

    Returns:
        A row per engine, the baseline first.
    """
    entries: list[Entry] = []
    out: dict[str, Row] = {}
    openers = {
        BASELINE: (ort.__version__, partial(_open_baseline, prepared, threads)),
        OURS: (sparsecc.__version__, partial(_open_ours, prepared, threads)),
    }
    if quantize.is_int8(prepared.pattern):
        openers[FLOAT] = (ort.__version__, partial(_open_float, prepared, threads))
    for peer in peers:
        openers[peer.name] = (peer.version, partial(_open_fastest, prepared, threads, peer, say))
    with ExitStack() as stack:
        for engine, (version, opener) in openers.items():
            say(f"opening {engine}")
            identity = {
                "model": prepared.model,
                "pattern": prepared.pattern,
                "threads": threads,
                "engine": engine,
                "version": version,
            }
            try:
                entry = opener()
                stack.enter_context(entry.worker)
                entries.append(Entry(identity | entry.row, entry.worker))
            except (UnavailableError, SparseccError) as error:
                out[engine] = Row(**identity, unavailable=one_line(error))
        out |= _measured(entries, seconds, say)
    return [out[engine] for engine in openers]


def _measured(entries: list[Entry], seconds: float, say: Say) -> dict[str, Row]:
    """Rows of the engines that opened; when the baseline did not, there is nothing to compare."""
    names = [entry.row["engine"] for entry in entries]
    if BASELINE not in names:
        why = "the baseline did not run"
        return {entry.row["engine"]: Row(**entry.row, unavailable=why) for entry in entries}
    say("timing")
    sides = [entry.worker for entry in entries]
    try:
        rounds = list(take_turns(sides, seconds * len(sides), pause_s=PAUSE_S))
    except SparseccError as error:
        why = one_line(error)
        return {entry.row["engine"]: Row(**entry.row, unavailable=why) for entry in entries}
    turns = dict(zip(names, zip(*rounds, strict=True), strict=True))
    return {
        name: Row(
            **entry.row,
            **figures(turns[name], turns[BASELINE]),
            cores=float(np.median(entry.worker.cores)),
            peak_rss_mb=entry.worker.stop(),
        )
        for name, entry in zip(names, entries, strict=True)
    }


def _job(prepared: Prepared, model: Path, threads: int, library: Path | None = None) -> Job:
    return Job(
        model=str(model),
        library=None if library is None else str(library),
        threads=threads,
        names=list(prepared.feeds),
        inputs=str(prepared.inputs),
        outputs=str(prepared.inputs.with_suffix(".answer.npz")),
    )


def _open_baseline(prepared: Prepared, threads: int) -> Entry:
    worker = Worker(TITLES[BASELINE], _job(prepared, prepared.path, threads))
    return _checked(prepared, worker, size_mb=_size_mb(prepared.path))


def _open_float(prepared: Prepared, threads: int) -> Entry:
    """The model before it was made eight-bit: what int8 gains, and what it costs."""
    worker = Worker(TITLES[FLOAT], _job(prepared, prepared.float_path, threads))
    error = relative_error(next(iter(worker.outputs.values())), prepared.reference)
    return Entry({"error": error, "size_mb": _size_mb(prepared.float_path)}, worker)


def _open_ours(prepared: Prepared, threads: int) -> Entry:
    if prepared.failure:
        raise UnavailableError(prepared.failure)
    folder = prepared.artifact
    name = open_artifact(folder).library
    library = None if name is None else folder / name
    worker = Worker(TITLES[OURS], _job(prepared, folder / MODEL_NAME, threads, library))
    return _checked(prepared, worker, prepare_s=prepared.compile_s, size_mb=_size_mb(folder))


def _open_fastest(prepared: Prepared, threads: int, peer: Peer, say: Say) -> Entry:
    """A peer in the setting that runs this model the fastest.

    Raises:
        UnavailableError: No setting gives the right answer; with the first one's reason.
    """
    python = python_of(peer, say)
    best: tuple[float, Entry] | None = None
    reasons: list[str] = []
    for setting in (each for each in peer.settings if each.suits(prepared.pattern)):
        say(f"opening {peer.title}, {setting.name}")
        try:
            entry = _open_peer(prepared, threads, peer, setting, python)
        except (UnavailableError, SparseccError) as error:
            reasons.append(f"{setting.name}: {one_line(error)}")
            continue
        entry.worker.time(TRIAL_RUNS)
        ms = min(entry.worker.time(TRIAL_RUNS))
        slower = entry if best and best[0] <= ms else best[1] if best else None
        if slower is not entry:
            best = ms, entry
        if slower is not None:
            slower.worker.end()
    if best is None:
        raise UnavailableError(reasons[0] if reasons else "no setting suits these zeros")
    return best[1]


def _open_peer(
    prepared: Prepared, threads: int, peer: Peer, setting: Setting, python: Path
) -> Entry:
    source = prepared.path
    if peer.opset != build.OPSET:
        models = prepared.folder / "models"
        source = build.write(
            prepared.model, prepared.pattern, models, prepared.layers, opset=peer.opset
        )
    start, model = time.perf_counter(), source
    if peer.converts:
        model = _converted(prepared.folder / "converted", source, peer, setting, python)
    seconds = time.perf_counter() - start
    job = _job(prepared, model, threads)
    job["settings"] = setting.options
    worker = Worker(
        peer.title,
        job,
        python=python,
        runtime=peer.runtime,
        environment=environment(threads),
        limit_s=OPEN_LIMIT_S,
    )
    return _checked(
        prepared, worker, setting=setting.name, prepare_s=seconds, size_mb=_size_mb(model)
    )


def environment(threads: int) -> dict[str, str]:
    """Variables of a peer's process: no Python of ours, threads for those who only look here."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return clean | {
        "OMP_NUM_THREADS": str(threads),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "NM_DISABLE_ANALYTICS": "1",
    }


def _converted(folder: Path, source: Path, peer: Peer, setting: Setting, python: Path) -> Path:
    """The peer's own file of a model, made first if it is not there.

    Raises:
        UnavailableError: Its converter refused the model.
    """
    label = setting.name.replace(" ", "-")
    result = folder / f"{source.stem}.{label}.{peer.name}-{peer.version}"
    if result.exists():
        return result
    folder.mkdir(parents=True, exist_ok=True)
    aside = result.with_name(f"{result.name}.part")
    command: list[str | Path] = [
        python,
        "-P",
        peer.runtime,
        source,
        aside,
        json.dumps(setting.options),
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=CONVERT_LIMIT_S,
            env=environment(os.cpu_count() or 1),
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"the conversion took over {CONVERT_LIMIT_S:.0f} s") from error
    if done.returncode or not aside.exists():
        last = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise UnavailableError(f"the conversion failed with code {done.returncode}: {last}")
    aside.replace(result)
    return result


def _checked(prepared: Prepared, worker: Worker, **row: Any) -> Entry:
    """An entry whose answer is right.

    Raises:
        UnavailableError: It is not; the process is ended.
    """
    error = relative_error(next(iter(worker.outputs.values())), prepared.reference)
    if not error < (quantize.TOLERANCE if quantize.is_int8(prepared.pattern) else TOLERANCE):
        worker.end()
        raise UnavailableError(f"wrong answer: off by {error:.1e} of the largest value")
    return Entry({"error": error, **row}, worker)


def relative_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest absolute difference over the largest expected magnitude; infinite if sizes differ."""
    if actual.size != expected.size:
        return float("inf")
    difference = np.abs(actual.reshape(expected.shape) - expected)
    return float(difference.max() / np.abs(expected).max())


def one_line(error: Exception) -> str:
    """What an error says, short enough for a table."""
    return " ".join(str(error).split())[:300]


def _size_mb(path: Path) -> float:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files) / 1e6
