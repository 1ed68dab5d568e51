"""The steps from a trained model to an artifact, in the order they happen."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

import sparsecc
from sparsecc import manifest as manifests
from sparsecc import targets
from sparsecc.artifact import scratch_folder
from sparsecc.backends.onnxruntime.emit import emit
from sparsecc.backends.onnxruntime.generate import patterns
from sparsecc.backends.onnxruntime.lower import lower
from sparsecc.backends.onnxruntime.run import open_session, session_of_model
from sparsecc.backends.onnxruntime.save import weight_bytes
from sparsecc.capture import capture
from sparsecc.compiled import Compiled
from sparsecc.errors import CalibrationError
from sparsecc.identity import model_hash
from sparsecc.inspection import rewrite
from sparsecc.job import Job, Outcome
from sparsecc.manifest import MODEL_NAME, Manifest, RefusalEntry, RegionEntry
from sparsecc.measure import TOLERANCE, Feed, agreement, largest_error, rounded
from sparsecc.ops import int8
from sparsecc.outcome import plan_of
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.quantize.insert import InsertQuantization, quantized_values
from sparsecc.passes.regions.form import FormRegions, Region
from sparsecc.passes.weights.to_dense import twin_of
from sparsecc.progress import Progress, part
from sparsecc.quality.calibration import (
    HELD_OUT_EVERY,
    SEARCH_HELD_OUT_EVERY,
    Calibration,
    load_calibration,
)
from sparsecc.quality.example_inputs import example_inputs as made_up_inputs
from sparsecc.quality.ranges import value_ranges
from sparsecc.quality.samples import read_source
from sparsecc.report import Report
from sparsecc.report.nodes import nodes_of
from sparsecc.report.rows import DENSE_KERNEL, LayerRow
from sparsecc.request import Request
from sparsecc.search.allocation import Decision

INT8_TOLERANCE = 0.1
"""Largest share of the output that ties rounded otherwise, a byte here and there, may make."""

JUDGED_BATCHES = 4
"""Batches the artifact is compared on with its twin and with the dense model."""


def start(
    model: Any,
    request: Request,
    calibration: Any,
    labels: Any,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None,
    dynamic_shapes: Any,
    verify: bool,
    progress: Progress,
) -> Job:
    """Capture a model, bring it into canonical form, and check the data against it."""
    ctx = Context(target=request.target, verify=verify)

    progress("capturing the model", 0.0)
    graph = capture(model, example_inputs, dynamic_shapes)
    identity, before, dense_bytes = model_hash(graph), nodes_of(graph), weight_bytes(graph)

    progress("reading the calibration data", 0.04)
    calibration = read_source(calibration, graph, part(progress, 0.04, 0.08))

    progress("bringing it into canonical form", 0.08)
    run(pipeline.EXACT_BEFORE, graph, ctx)

    progress("checking the calibration data", 0.1)
    searched = request.budget is not None and request.recover is None  # which learns from the rest
    every = SEARCH_HELD_OUT_EVERY if searched else HELD_OUT_EVERY
    data = None
    if calibration is not None:
        data = load_calibration(calibration, graph, labels=labels, held_out_every=every)
    return Job(request, ctx, graph, identity, data, before, dense_bytes)


def finish(job: Job, outcome: Outcome, progress: Progress) -> Compiled:
    """From pruned weights to the artifact."""
    request, ctx, graph = job.request, job.ctx, outcome.graph
    if request.quantize:
        progress("making it eight-bit", 0.7)
        quantize_model(graph, job.data, ctx)

    progress("choosing kernels and rewriting", 0.72)
    rows = with_reasons(rewrite(graph, request.target, ctx), outcome.decisions)
    generated = list(patterns(graph, request.target))
    regions = form_regions(graph, request.target, ctx)

    progress("lowering to ONNX Runtime", 0.78)
    lower(graph)

    with scratch_folder() as folder:
        progress("building the kernel library", 0.8)
        library = emit(graph, request.target, folder, generated)

        progress("comparing with the twin and the dense model", 0.88)
        portable = not targets.runs_here(request.target)
        feeds = judging_feeds(job.graph, job.data)
        numerics, quality = judge(graph, job.graph, folder, None if portable else library, feeds)

        progress("writing the manifest", 0.98)
        made = Manifest(
            format=manifests.FORMAT,
            sparsecc=sparsecc.__version__,
            tools=manifests.tool_versions(),
            target=request.target.name,
            hardware=json.loads(request.target.to_json()),
            library=library,
            opset=graph.opset_imports[""],
            files={path.name: manifests.file_entry(path) for path in sorted(folder.iterdir())},
            plan=json.loads(plan_of(job, outcome, rows).to_json()),
            layers=[row.to_json() for row in rows],
            regions=[RegionEntry(**dataclasses.asdict(region)) for region in regions],
            nodes_before=job.before,
            nodes_after=nodes_of(graph),
            dense_bytes=job.dense_bytes,
            refusals=[RefusalEntry(**dataclasses.asdict(refusal)) for refusal in ctx.refusals],
            numerics=numerics,
            quality=quality,
        )
        made = with_report(folder, made)
        (folder / manifests.FILE_NAME).write_bytes(made.to_bytes())
        progress("done", 1.0)
        compiled = Compiled(folder, manifests.read_manifest(folder), portable=portable)
    weakref.finalize(compiled, shutil.rmtree, folder, ignore_errors=True)
    return compiled


def quantize_model(graph: ir.Model, data: Calibration | None, ctx: Context) -> None:
    """Make the layers that the int8 kernels cover eight-bit.

    Raises:
        CalibrationError: There is no calibration data, or the model does not run on it.
        PlanError: The model's opset is too old.
    """
    if data is None:
        raise CalibrationError(
            "int8 needs the ranges of the activations, and there is no calibration data",
            fix="pass calibration: typical inputs, one array per input of the model",
        )
    ranges = value_ranges(graph, quantized_values(graph), data)
    run([InsertQuantization(ranges), DeadCode()], graph, ctx)


def form_regions(graph: ir.Model, target: targets.Target, ctx: Context) -> list[Region]:
    """Make regions of what the library runs in one call."""
    regions = FormRegions(target)
    run([regions], graph, ctx)
    return regions.formed


def with_reasons(rows: Sequence[LayerRow], decisions: Mapping[str, Decision]) -> list[LayerRow]:
    """Rows in which a layer that was not pruned on purpose says so, not that it has no zeros."""
    return [
        dataclasses.replace(row, why=decisions[row.name].reason)
        if row.name in decisions and decisions[row.name].reason and row.kernel == DENSE_KERNEL
        else row
        for row in rows
    ]


def judging_feeds(model: ir.Model, data: Calibration | None) -> list[Feed]:
    """Inputs to compare on: held-out calibration batches, else made-up ones."""
    if data is None:
        return [made_up_inputs(model)]
    return list((data.held_out or data.train)[:JUDGED_BATCHES])


def judge(
    graph: ir.Model, dense: ir.Model, folder: Path, library: str | None, feeds: Sequence[Feed]
) -> tuple[dict[str, float], dict[str, float]]:
    """Numerics against the masked-dense twin, and quality against the dense model."""
    ours = open_session(folder / MODEL_NAME, library=folder / library if library else None)
    error = largest_error(ours, session_of_model(twin_of(graph)), feeds)
    if not error <= (INT8_TOLERANCE if int8.DOMAIN in graph.opset_imports else TOLERANCE):
        warnings.warn(
            f"the artifact differs from its masked-dense twin by {error:.1e} of the output: "
            "check it with `sparsecc verify` and please report it",
            RuntimeWarning,
            stacklevel=3,
        )
    return {"max_rel_error": rounded(error)}, agreement(ours, session_of_model(dense), feeds)


def with_report(folder: Path, made: Manifest) -> Manifest:
    """Write the page for people into the folder; the manifest that lists it too."""
    page = Report.from_manifest(made).save(folder / manifests.REPORT_NAME)
    files = made.files | {page.name: manifests.file_entry(page)}
    return made.model_copy(update={"files": files})
