"""Writing a model for several processes: an artifact for each part, and the schedule."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsecc import ops, targets
from sparsecc.capture import capture
from sparsecc.driver import compile as compile_model
from sparsecc.errors import ArtifactError, ModelError, PlanError
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.experts.routing import observe
from sparsecc.progress import counted, silent
from sparsecc.quality.calibration import load_calibration
from sparsecc.spread.schedule import FILE_NAME, SCHEDULE_FILE, experts_folder
from sparsecc.spread.split import Split, split


def spread(
    model: Any,
    out: str | Path,
    ranks: int,
    *,
    target: str = "native",
    load: Sequence[float] | None = None,
    calibration: Any = None,
) -> Path:
    """Write a model for several processes that share its experts.

    Every part is an artifact of its own, compiled as any model: ``part…`` is the same for all
    processes, ``rank…/experts…`` has the experts of one. ``schedule.json`` says what is run and
    sent; :class:`sparsecc.spread.Worker` does so.

    Args:
        model: An ONNX file or model with mixtures of experts.
        out: Folder to write; one that such a call wrote is replaced.
        ranks: How many processes.
        target: Hardware of each.
        load: How often each expert is chosen, to place them by; the same for all layers.
        calibration: Sample inputs, as :func:`sparsecc.compile` takes them, on which that is
            measured, layer by layer.

    Returns:
        The folder.

    Raises:
        ModelError: The model cannot be read, has no mixture of experts, or a part of it does not
            run on any number of tokens.
        PlanError: Its experts do not divide over so many processes, or it is said twice how often
            they are chosen.
        CalibrationError: The data do not fit the model.
        ArtifactError: The folder cannot be written, or holds something else.
    """
    if ranks < 1:
        raise PlanError(f"a model for {ranks} processes", fix="give one or more")
    folder = Path(out)
    if folder.exists() and not (folder / FILE_NAME).is_file():
        raise ArtifactError(
            f"{folder} exists and holds no model for several processes", fix="choose another folder"
        )
    if load is not None and calibration is not None:
        raise PlanError(
            "load and calibration both say how often experts are chosen", fix="give one of them"
        )
    hardware = targets.read(target)
    graph = capture(model)
    ops.attach_functions(graph)
    # Values where parts meet become inputs, which have types and as many dimensions as are known.
    run((*pipeline.EXACT_BEFORE, ShapeInference()), graph, Context(target=hardware))
    cut = split(graph, ranks, load if calibration is None else _measured(graph, calibration))
    try:
        with tempfile.TemporaryDirectory(
            dir=folder.absolute().parent, prefix=".spread-"
        ) as scratch:
            made = Path(scratch) / "made"
            _write(cut, made, target)
            if folder.exists():
                shutil.rmtree(folder)
            made.rename(folder)
    except OSError as error:
        raise ArtifactError(
            f"cannot write {folder}: {error.strerror or error}",
            fix="choose a folder that can be written and has room",
        ) from error
    return folder


def _measured(graph: ir.Model, calibration: Any) -> Mapping[str, Sequence[float]]:
    data = load_calibration(calibration, graph)
    return {
        each.mixture.name: each.traffic.chosen.tolist()
        for each in observe(graph, data, counted(silent))
    }


def _write(cut: Split, folder: Path, target: str) -> None:
    for place, part in _places(cut, folder):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            compile_model(part, target).save(place)
        except ModelError as error:
            raise ModelError(
                f"{place.name}, which lies between mixtures of experts, does not run alone: "
                f"{error.message}",
                node=error.node,
                fix="parts run on any number of tokens: export the model for tokens [T, d], "
                "not for sequences of a fixed length",
            ) from error
    SCHEDULE_FILE.save(cut.schedule, folder / FILE_NAME)


def _places(cut: Split, folder: Path) -> Iterator[tuple[Path, ir.Model]]:
    yield from ((folder / name, part) for name, part in cut.parts.items())
    for name, each in cut.experts.items():
        for rank, part in enumerate(each):
            yield experts_folder(folder, rank) / name, part


__all__ = ["spread"]
