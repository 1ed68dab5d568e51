"""``compile``: ten steps from a trained model to an artifact, in the order they happen."""

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
from sparsecc.manifest import MODEL_NAME, Manifest
from sparsecc.measure import TOLERANCE, Feed, agreement, largest_error, rounded
from sparsecc.ops import int8
from sparsecc.passes import pipeline
from sparsecc.passes.base import Context, run
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.quantize.insert import InsertQuantization, quantized_values
from sparsecc.passes.regions.form import FormRegions, Region
from sparsecc.passes.weights.layers import find_layers
from sparsecc.passes.weights.prune import LayerResult, detect_layers, prune_model
from sparsecc.passes.weights.to_dense import twin_of
from sparsecc.progress import Progress, part, silent
from sparsecc.quality.calibration import Calibration, load_calibration
from sparsecc.quality.example_inputs import example_inputs as made_up_inputs
from sparsecc.quality.ranges import value_ranges
from sparsecc.report import Report
from sparsecc.report.nodes import nodes_of
from sparsecc.report.rows import DENSE_KERNEL, LayerRow
from sparsecc.request import Request, read_request
from sparsecc.search.allocation import Decision, allocate
from sparsecc.search.plan import Plan, PlanLayer, PlanRefusal

INT8_TOLERANCE = 0.1
"""Largest share of the output that ties rounded otherwise, a byte here and there, may make."""

JUDGED_BATCHES = 4
"""Batches the artifact is compared on with its twin and with the dense model."""


def compile(
    model: Any,
    target: str = "native",
    *,
    sparsity: str = "existing",
    overrides: Mapping[str, str] | None = None,
    calibration: Any = None,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    score: str = "alps",
    refit: bool = True,
    allocation: str = "uniform",
    quantize: str | None = None,
    verify: bool = False,
    progress: Progress = silent,
) -> Compiled:
    """Compile a trained model into a sparse artifact for a target.

    Args:
        model: Path of an ONNX file, ``onnx.ModelProto``, ``onnx_ir.Model``, ``torch.nn.Module``,
            ``torch.export.ExportedProgram`` or ``torch.fx.GraphModule``. It is not changed.
        target: ``native``, a name such as ``x86-64``, or the path of a target file
            (docs/targets.md).
        sparsity: ``existing`` (the zeros already there), or a request such as ``4x1:0.8``,
            ``unstructured:0.5`` or ``2:4``.
        overrides: Layer-name pattern → request; the first that matches wins.
        calibration: Sample inputs: an .npz path or a mapping of input name → array with the
            samples along axis 0, or an iterable of feeds. Without them masks are by magnitude.
        example_inputs: For torch: the arguments of one call.
        dynamic_shapes: For torch: which dimensions vary, as ``torch.export.export`` takes it.
        score: How masks are found: ``alps``, ``sparsegpt``, ``wanda`` or ``magnitude``.
        refit: Whether kept weights are refitted where held-out data say that it helps.
        allocation: ``uniform`` or ``erk``: how the sparsity spreads over the layers.
        quantize: ``int8`` makes weights and activations eight-bit, after pruning (best with
            ``4x4:0.8``); it needs ``calibration``. A model in QDQ form is eight-bit already.
        verify: Check the graph after every pass.
        progress: Called with what is being done and the share done, 0 to 1.

    Returns:
        The compiled model: call it, ``print(it.report)``, ``it.save(folder)``.

    Raises:
        SparseccError: The model, the data or the request cannot be used; says what to do.
    """
    request = read_request(target, sparsity, overrides, score, refit, allocation, quantize)
    ctx = Context(target=request.target, verify=verify)

    progress("capturing the model", 0.0)
    graph = capture(model, example_inputs, dynamic_shapes)
    identity, before, dense_bytes = model_hash(graph), nodes_of(graph), weight_bytes(graph)

    progress("bringing it into canonical form", 0.05)
    run(pipeline.EXACT_BEFORE, graph, ctx)
    dense = graph.clone()

    progress("checking the calibration data", 0.1)
    data = load_calibration(calibration, graph) if calibration is not None else None

    progress("deciding what to prune", 0.12)
    decisions = decide(graph, request)

    results = prune(graph, decisions, data, part(progress, 0.15, 0.7))

    if request.quantize:
        progress("making it eight-bit", 0.7)
        quantize_model(graph, data, ctx)

    progress("choosing kernels and rewriting", 0.72)
    rows = with_reasons(rewrite(graph, request.target, ctx), decisions)
    generated = list(patterns(graph, request.target))
    regions = form_regions(graph, request.target, ctx)

    progress("lowering to ONNX Runtime", 0.78)
    lower(graph)

    with scratch_folder() as folder:
        progress("building the kernel library", 0.8)
        library = emit(graph, request.target, folder, generated)

        progress("comparing with the twin and the dense model", 0.88)
        portable = not targets.runs_here(request.target)
        feeds = judging_feeds(dense, data)
        numerics, quality = judge(graph, dense, folder, None if portable else library, feeds)

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
            plan=json.loads(plan_of(request, identity, decisions, results, rows, ctx).to_json()),
            layers=[row.to_json() for row in rows],
            regions=[dataclasses.asdict(region) for region in regions],
            nodes_before=before,
            nodes_after=nodes_of(graph),
            dense_bytes=dense_bytes,
            refusals=[dataclasses.asdict(refusal) for refusal in ctx.refusals],
            numerics=numerics,
            quality=quality,
        )
        made = with_report(folder, made)
        (folder / manifests.FILE_NAME).write_bytes(made.to_bytes())
        progress("done", 1.0)
        compiled = Compiled(folder, manifests.read_manifest(folder), portable=portable)
    weakref.finalize(compiled, shutil.rmtree, folder, ignore_errors=True)
    return compiled


def decide(graph: ir.Model, request: Request) -> dict[str, Decision]:
    """What is done to each prunable layer."""
    layers = find_layers(graph).layers
    return allocate(
        layers,
        request.spec,
        overrides=request.overrides,
        allocation=request.allocation,
        method=request.score,
        refit=request.refit,
        detected=detect_layers(layers),
    )


def prune(
    graph: ir.Model,
    decisions: Mapping[str, Decision],
    data: Calibration | None,
    progress: Progress,
) -> dict[str, LayerResult]:
    """Carry out the decisions; layer name → what became of it."""
    choices = {name: decision.choice for name, decision in decisions.items()}
    results = prune_model(
        graph,
        choices,
        data,
        on_progress=lambda what, done, steps: progress(what, done / max(1, steps)),
    )
    return {result.name: result for result in results}


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


def plan_of(
    request: Request,
    identity: str,
    decisions: Mapping[str, Decision],
    results: Mapping[str, LayerResult],
    rows: Sequence[LayerRow],
    ctx: Context,
) -> Plan:
    """The plan that was carried out."""
    return Plan(
        sparsecc=sparsecc.__version__,
        model_hash=identity,
        target=request.target.name,
        spec=str(request.spec),
        overrides={name: str(spec) for name, spec in request.overrides.items()},
        allocation=request.allocation,
        layers=tuple(
            planned(row, row.shape, decisions[row.name], results.get(row.name))
            for row in rows
            if row.shape is not None and row.name in decisions
        ),
        refusals=tuple(PlanRefusal(**dataclasses.asdict(each)) for each in ctx.refusals),
    )


def planned(
    row: LayerRow, shape: tuple[int, int], decision: Decision, result: LayerResult | None
) -> PlanLayer:
    """The plan's entry of one layer."""
    reasons = dict.fromkeys((decision.reason, result.reason if result else "", row.why))
    return PlanLayer(
        name=row.name,
        op=row.op,
        rows=shape[0],
        cols=shape[1],
        choice=decision.choice,
        density=row.density,
        loss=result.loss if result else None,
        predicted_ms=row.est_ms,
        dense_ms=row.dense_ms,
        kernel=row.kernel,
        reason="; ".join(reason for reason in reasons if reason),
    )
