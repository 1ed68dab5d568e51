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
from sparsecc import ops, targets
from sparsecc.artifact import scratch_folder
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.backends.onnxruntime.save import weight_bytes
from sparsecc.capture import capture
from sparsecc.compiled import Compiled
from sparsecc.emission import EMITTERS, Emitted
from sparsecc.engines import open_engine, open_variants, why_not_here
from sparsecc.errors import CalibrationError, PlanError
from sparsecc.identity import model_hash
from sparsecc.inspection import rewrite
from sparsecc.job import Job, Outcome
from sparsecc.manifest import (
    Manifest,
    NodeEntry,
    PortEntry,
    RefusalEntry,
    RegionEntry,
    StateEntry,
)
from sparsecc.measure import Feed, Session, agreement, rounded, tolerance
from sparsecc.ops import int8
from sparsecc.outcome import plan_of
from sparsecc.passes import pipeline
from sparsecc.passes.attention.online import expose
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.quantize.experts import RoundExperts
from sparsecc.passes.quantize.insert import InsertQuantization, quantized_values
from sparsecc.passes.regions.form import Region
from sparsecc.passes.split.write import ROUTERS
from sparsecc.passes.weights.to_dense import twin_of
from sparsecc.progress import Progress, part
from sparsecc.quality.calibration import (
    HELD_OUT_EVERY,
    SEARCH_HELD_OUT_EVERY,
    Calibration,
    load_calibration,
)
from sparsecc.quality.example_inputs import example_inputs as made_up_inputs
from sparsecc.quality.ranges import largest_numbers, value_ranges
from sparsecc.quality.samples import read_source
from sparsecc.reference import reference
from sparsecc.report import Report
from sparsecc.report.nodes import nodes_of
from sparsecc.report.rows import DENSE_KERNEL, TVM_KERNEL, LayerRow
from sparsecc.request import EXPERT_BITS, INT8, Request
from sparsecc.search.allocation import Decision
from sparsecc.search.attentions import PlanAttention
from sparsecc.search.mixtures import PlanExperts
from sparsecc.state import ERROR, AtCall, Sampling, numerics

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
    if dynamic_shapes is None and request.target.family == "cuda":
        dynamic_shapes = {}  # none varies: kernels for GPUs and graphs of them are of fixed sizes
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
    if request.quantize == INT8:
        progress("making it eight-bit", 0.7)
        quantize_model(graph, job.data, ctx)
    elif request.quantize is not None:
        progress("rounding the weights of experts", 0.7)
        round_experts(graph, request.quantize, ctx)

    if request.target.family == "cuda" and job.data is not None:
        progress("looking for numbers beyond float16", 0.71)
        ctx.largest = largest_numbers(graph, job.data)

    progress("choosing kernels and rewriting", 0.72)
    target, state = request.target, expose(graph)
    rows = rows_of(job, outcome)

    with scratch_folder() as folder:
        progress(f"building for {target.name}", 0.78)
        told = part(progress, 0.78, 0.88)
        emitted = EMITTERS[target.backend](graph, request, folder, ctx, told)
        files, rows = manifests.files_of(folder), _with_kernels(rows, emitted, ctx)

        progress("comparing with the twin and the dense model", 0.88)
        made = Manifest(
            format=manifests.FORMAT,
            sparsecc=sparsecc.__version__,
            tools=manifests.tool_versions(emitted.tools),
            target=target.name,
            hardware=json.loads(target.to_json()),
            name=request.name,
            library=emitted.library,
            opset=graph.opset_imports[""],
            files=files,
            plan=json.loads(plan_of(job, outcome, rows).to_json()),
            layers=[row.to_json() for row in rows],
            regions=[RegionEntry(**dataclasses.asdict(region)) for region in emitted.regions],
            nodes_before=job.before,
            nodes_after=in_regions(nodes_of(graph), emitted.regions),
            dense_bytes=job.dense_bytes,
            refusals=[RefusalEntry(**dataclasses.asdict(refusal)) for refusal in ctx.refusals],
            inputs=[PortEntry(**dataclasses.asdict(port)) for port in emitted.inputs],
            outputs=[PortEntry(**dataclasses.asdict(port)) for port in emitted.outputs],
            state=[StateEntry(**dataclasses.asdict(each)) for each in state],
            numerics={},
            quality={},
        )
        portable = made.has_model and not targets.runs_here(target)
        made = judged(made, job, graph, folder, portable=portable)

        progress("writing the manifest", 0.98)
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


def round_experts(graph: ir.Model, quantization: str, ctx: Context) -> None:
    """Round the weights of experts to codes.

    Raises:
        PlanError: There are no experts that this can be done to.
    """
    rounding = RoundExperts(EXPERT_BITS[quantization])
    run([rounding, DeadCode()], graph, ctx)
    why = [each for each in ctx.refusals if each.pass_name == rounding.name]
    mixtures = sum(map(ops.is_mixture, graph.graph))
    if len(why) == mixtures:
        raise PlanError(
            f"{quantization} is for experts, and "
            + (f"{why[0].node!r} stays: {why[0].reason}" if why else "the model has none"),
            fix="leave it out; docs/moe.md says what is recognised as experts",
        )


def in_regions(nodes: Sequence[NodeEntry], regions: Sequence[Region]) -> list[NodeEntry]:
    """Nodes that were written, each with the region it is in."""
    region_of = {name: region.op_type for region in regions for name in region.nodes}
    return [
        node.model_copy(update={"region": region_of.get(node.name, node.region)}) for node in nodes
    ]


def rows_of(job: Job, outcome: Outcome) -> list[LayerRow]:
    """Rewrites the pruned model; a row per layer, with its dense time in the model that came in.

    Where channels or heads were removed, what is left of a layer is quicker also where it is dense.
    Heads that attention skips are.
    """
    rewritten = rewrite(outcome.graph, job.request.target, job.ctx)
    rows = _of_mean_steps(_with_reasons(rewritten, outcome.decisions), outcome)
    fewer = any(not each.is_whole for each in outcome.source.get("mixtures", ()))
    if fewer or outcome.source.get("removed") or outcome.source.get("attention"):
        target = job.request.target
        whole = rewrite(job.graph.clone(), target, Context(target=target))
        rows = _with_dense_times(rows, {row.name: row.dense_ms for row in whole})
    return _of_networks(rows, outcome.source.get("experts", ()))


def _with_kernels(rows: Sequence[LayerRow], emitted: Emitted, ctx: Context) -> list[LayerRow]:
    """Rows in which layers have the kernels that were found for them as the files were written."""
    why = {each.node: each.reason for each in ctx.refusals if each.node in emitted.kernels}
    return [
        row
        if row.name not in emitted.kernels
        else dataclasses.replace(row, kernel=TVM_KERNEL, est_ms=row.dense_ms, why=why[row.name])
        if emitted.kernels[row.name] == TVM_KERNEL
        else dataclasses.replace(row, kernel=emitted.kernels[row.name])
        for row in rows
    ]


def _with_dense_times(rows: Sequence[LayerRow], dense: Mapping[str, float]) -> list[LayerRow]:
    """Rows with other dense times, as far as they are given."""
    return [
        dataclasses.replace(row, dense_ms=round(dense[row.name], 6)) if row.name in dense else row
        for row in rows
    ]


def _of_networks(rows: Sequence[LayerRow], entries: Sequence[PlanExperts]) -> list[LayerRow]:
    """Rows in which experts of a network take the place of all of it, and nothing had a router."""
    dense = {each.name: each.dense_ms for each in entries if not each.is_dense}
    dense |= {name + end: 0.0 for name in tuple(dense) for end in ROUTERS.values()}
    return _with_dense_times(rows, dense)


def _with_reasons(rows: Sequence[LayerRow], decisions: Mapping[str, Decision]) -> list[LayerRow]:
    """Rows in which a layer that was not pruned on purpose says so, not that it has no zeros."""
    return [
        dataclasses.replace(row, why=decisions[row.name].reason)
        if row.name in decisions and decisions[row.name].reason and row.kernel == DENSE_KERNEL
        else row
        for row in rows
    ]


def _of_mean_steps(rows: Sequence[LayerRow], outcome: Outcome) -> list[LayerRow]:
    """Rows in which an attention that searches online takes what it does over a sampling."""
    planned: Sequence[PlanAttention] = outcome.source.get("attention", ())
    online = {each.name: each for each in planned if each.online is not None and each.dense_ms}
    return [_of_mean_step(row, online[row.name]) if row.name in online else row for row in rows]


def _of_mean_step(row: LayerRow, entry: PlanAttention) -> LayerRow:
    ms = round(entry.predicted_ms / entry.dense_ms * row.dense_ms, 6)
    why = f"its blocks are {entry.online}: the time is that of a mean step"
    return dataclasses.replace(row, est_ms=ms, why=why)


def judging_feeds(model: ir.Model, data: Calibration | None) -> list[Feed]:
    """Inputs to compare on: held-out calibration batches, else made-up ones."""
    if data is None:
        return [made_up_inputs(model)]
    return list((data.held_out or data.train)[:JUDGED_BATCHES])


def judged(made: Manifest, job: Job, graph: ir.Model, folder: Path, *, portable: bool) -> Manifest:
    """The manifest with numerics against the masked-dense twin, and quality against the dense one.

    Where nothing here runs the artifact, the twin stands for it, which computes the same function.
    Of a model that searches blocks online, quality is that of calls that search.
    """
    twin, feeds = session_of_model(twin_of(graph)), judging_feeds(job.graph, job.data)
    not_run, variants = "", dict[str, Session]()
    if made.has_model:
        variants = {"": open_engine(folder, made, portable=portable)}
    elif not (not_run := why_not_here(job.request.target)):
        variants = open_variants(folder, made)
    ours, sampling = next(iter(variants.values()), twin), Sampling.of(made)
    measured = dict[str, float]()
    for name, each in variants.items():
        errors = numerics(each, twin, feeds, sampling)
        is_int8 = int8.DOMAIN in graph.opset_imports
        _warn_of(errors[ERROR], INT8_TOLERANCE if is_int8 else tolerance(made))
        measured |= {f"{what}_{name}".rstrip("_"): rounded(error) for what, error in errors.items()}
    searching = ours if sampling is None else AtCall(ours, sampling, sampling.begun(sampling.full))
    found: dict[str, Any] = {
        "numerics": measured,
        "quality": agreement(searching, session_of_model(job.graph), feeds),
        "not_run": not_run,
    }
    if not made.has_model:
        found["reference"] = reference(twin, made.inputs, made.outputs, made.state)
    return made.model_copy(update=found)


def _warn_of(error: float, most: float) -> None:
    if error <= most:
        return
    warnings.warn(
        f"the artifact differs from its masked-dense twin by {error:.1e} of the output: "
        "check it with `sparsecc verify` and please report it",
        RuntimeWarning,
        stacklevel=4,
    )


def with_report(folder: Path, made: Manifest) -> Manifest:
    """Write the page for people into the folder; the manifest that lists it too."""
    page = Report.from_manifest(made).save(folder / manifests.REPORT_NAME)
    files = made.files | {page.name: manifests.file_entry(page)}
    return made.model_copy(update={"files": files})
