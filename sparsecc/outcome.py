"""What is done to the weights of a model: as asked, or as a plan says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

import sparsecc
from sparsecc.attention import over_blocks
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.cost.model import cost_model
from sparsecc.errors import CalibrationError, PlanError
from sparsecc.executor import open_executor
from sparsecc.experts import into_experts
from sparsecc.fewer_experts import with_fewer
from sparsecc.formats.patterns import DENSE
from sparsecc.formats.structures import Structure
from sparsecc.job import Job, Outcome
from sparsecc.ordering import FOR_CHOICES, in_order, with_notes
from sparsecc.passes.remove.remove import Removed
from sparsecc.passes.structured import rewrite as structured
from sparsecc.passes.structured.detect import exact_structures, exactly
from sparsecc.passes.weights.layers import Layer, find_layers
from sparsecc.passes.weights.prune import LayerResult, detect_layers, prune_model
from sparsecc.passes.weights.spread import by_losses, by_outliers
from sparsecc.progress import Progress, counted, part
from sparsecc.quality.exam import LABELLED, MEASURES, Grade, set_exam
from sparsecc.recovery import recovered
from sparsecc.removal import smaller
from sparsecc.report.rows import LayerRow
from sparsecc.request import INT8, Request
from sparsecc.search.allocation import MEASURED, Decision, allocate, by_size, misfit, to_spread
from sparsecc.search.plan import Choice, Plan, PlanBudget, PlanLayer, PlanRefusal
from sparsecc.searched import searched

PRUNING = 0.3
"""Share of the progress that pruning is where a recovery follows."""
KEPT = (
    *("spec", "overrides", "allocation", "removed", "mixtures", "attention", "experts"),
    "permuted",
    *("mode", "seed", "costs", "points"),
)
"""What a plan says besides its layers that carrying it out does not change."""


def prune_as_asked(job: Job, progress: Progress, *, best_effort: bool = False) -> Outcome:
    """Search for a plan where there is a budget, else do what was asked for.

    Raises:
        CalibrationError: A search has no data.
        PlanError: No plan keeps to the budget, and ``best_effort`` is false.
    """
    request, whole = job.request, job
    if request.searches_weights:
        job, fewer, progress = with_fewer(job, request, progress)
        job, kept, progress = over_blocks(job, request, progress)
        job, made, progress = into_experts(job, request, progress)
        done = searched(job, progress, dense=whole.graph, best_effort=best_effort)
        before = {"mixtures": fewer.entries, "attention": kept.entries, "experts": made.entries}
        return dataclasses.replace(done, source={**done.source, **before})
    deciding = 0.4 if request.allocation in MEASURED else 0.0
    job, removed, progress = smaller(job, request if request.spec.removes else (), progress)
    job, fewer, progress = with_fewer(job, request, progress)
    job, kept, progress = over_blocks(job, request, progress)
    job, made, progress = into_experts(job, request, progress)
    decisions = decide(job, part(progress, 0.0, deciding))
    permuted = FOR_CHOICES if request.permute else ""
    told = part(progress, deciding, 1.0)
    done = _carried_out(whole, job, removed, decisions, permuted, request.seed, told)
    source = {
        "spec": str(request.spec),
        "overrides": {name: str(spec) for name, spec in request.overrides.items()},
        "allocation": request.allocation,
        "removed": removed.sets,
        "mixtures": fewer.entries,
        "attention": kept.entries,
        "experts": made.entries,
        "budget": made.budget or kept.budget or fewer.budget,
        "permuted": permuted,
        "costs": cost_model(request.target).name,
        "seed": request.seed,
    }
    return dataclasses.replace(done, source=source | dict(done.source))


def follow(job: Job, plan: Plan, progress: Progress) -> Outcome:
    """Do what a plan says.

    Raises:
        PlanError: The plan is for another model, or a choice does not fit its layer.
        CalibrationError: The model does not run on the data.
    """
    whole = job
    job, removed, progress = smaller(job, plan.removed, progress)
    job, _, progress = with_fewer(job, plan.mixtures, progress)
    job, _, progress = over_blocks(job, plan.attention, progress)
    job, _, progress = into_experts(job, plan.experts, progress)
    _check_layers(find_layers(job.graph).layers, plan)
    decisions = {layer.name: Decision(layer.choice) for layer in plan.layers}
    done = _carried_out(whole, job, removed, decisions, plan.permuted, plan.seed, progress)
    source = {name: getattr(plan, name) for name in KEPT}
    source |= {"budget": _examined(whole, done.graph, plan)}
    options = {layer.name: layer.options for layer in plan.layers}
    return dataclasses.replace(done, source=source | dict(done.source), options=options)


def _carried_out(
    whole: Job,
    job: Job,
    removed: Removed,
    decisions: Mapping[str, Decision],
    permuted: str,
    seed: int,
    progress: Progress,
) -> Outcome:
    """The decisions carried out, and recovered where that was asked for, as the source says.

    Args:
        whole: With the model that came in, which teaches where some of it was removed.
        job: With what is left of it.
        removed: What was removed.
        decisions: Layer name → what to do.
        permuted: What channels are put in order for, as plans say it.
        seed: Of that order.
        progress: Told what is being done.
    """
    share = 1.0 if job.request.recover is None else PRUNING
    job, notes, progress = in_order(job, choices_of(decisions), permuted, seed, progress)
    graph, teacher = job.graph.clone(), whole if removed.sets else job
    results = prune(graph, decisions, job, part(progress, 0.0, share))
    recovery = recovered(teacher, graph, part(progress, share, 1.0))
    said = with_notes(decisions, removed.notes, first=True)
    return Outcome(graph, said, with_notes(results, notes), {"recovery": recovery}, {})


def decide(job: Job, progress: Progress) -> dict[str, Decision]:
    """What is done to each prunable layer.

    Raises:
        CalibrationError: The allocation needs data, and there are none.
        PlanError: An override matches no layer.
    """
    progress("deciding what to prune", 0.0)
    request, layers = job.request, find_layers(job.graph).layers
    decisions = allocate(
        layers,
        request.spec,
        overrides=request.overrides,
        densities=_densities(job, layers, part(progress, 0.0, 0.9)),
        method=request.score,
        refit=request.refit,
        detected=detect_layers(layers),
    )
    # eight bits are for whole weights; whoever asks for zeros gets them
    free = [each for each in layers if _is_free(each, decisions[each.name], request)]
    found = exact_structures(free, request.target, counted(part(progress, 0.9, 1.0)))
    return decisions | {name: Decision(exactly(each)) for name, each in found.items()}


def _is_free(layer: Layer, decision: Decision, request: Request) -> bool:
    """Whether nobody asked for anything else than the weight as it is."""
    as_it_is = not decision.choice.changes or decision.reason == layer.keep_dense != ""
    return as_it_is and request.quantize != INT8


def _densities(job: Job, layers: Sequence[Layer], progress: Progress) -> dict[str, float]:
    """Densities by name of the layers that do not simply get what was asked for."""
    request, spec = job.request, job.request.spec
    if request.allocation == "erk":
        return by_size(layers, spec, request.overrides)
    free = to_spread(layers, spec, request.overrides)
    if request.allocation == "uniform" or not free:
        return {}
    if job.data is None:
        raise CalibrationError(
            f"the allocation {request.allocation!r} looks at calibration data, and there are none",
            fix="pass calibration: typical inputs, some hundred samples, or use erk or uniform",
        )
    if request.allocation == "owl":
        return by_outliers(job.graph, free, spec, job.data, progress)
    with open_executor(request.executor) as executor:
        return by_losses(job.graph, free, spec, job.data, executor, progress)


def prune(
    graph: ir.Model, decisions: Mapping[str, Decision], job: Job, progress: Progress
) -> dict[str, LayerResult]:
    """Carry out the decisions; layer name → what became of it."""
    choices = choices_of(decisions)
    with open_executor(job.request.executor) as executor:
        results = prune_model(
            graph, choices, job.data, executor=executor, on_progress=counted(progress)
        )
    return {result.name: result for result in results}


def choices_of(decisions: Mapping[str, Decision]) -> dict[str, Choice]:
    """Layer name → what is done to it."""
    return {name: decision.choice for name, decision in decisions.items()}


def plan_of(job: Job, outcome: Outcome, rows: Sequence[LayerRow]) -> Plan:
    """The plan that was carried out."""
    return Plan(
        sparsecc=sparsecc.__version__,
        model_hash=job.identity,
        target=job.request.target.name,
        backend=job.request.target.backend,
        layers=tuple(
            _planned(row, row.shape, outcome)
            for row in rows
            if row.shape is not None and row.name in outcome.decisions
        ),
        refusals=tuple(PlanRefusal(**dataclasses.asdict(each)) for each in job.ctx.refusals),
        **outcome.source,
    )


def _planned(row: LayerRow, shape: tuple[int, int], outcome: Outcome) -> PlanLayer:
    decision, result = outcome.decisions[row.name], outcome.results.get(row.name)
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
        spread=row.spread,
        dense_ms=row.dense_ms,
        kernel=row.kernel,
        reason="; ".join(reason for reason in reasons if reason),
        options=outcome.options.get(row.name, ()),
    )


def _examined(job: Job, graph: ir.Model, plan: Plan) -> PlanBudget | None:
    """The plan's budget with the drop that this model shows; None where it cannot be measured."""
    budget, data = plan.budget, job.data
    if budget is None or data is None or not data.held_out:
        return None
    if budget.metric not in (*MEASURES, *([LABELLED] if data.labels is not None else [])):
        return None
    exam = set_exam(session_of_model(job.graph), data.held_out, budget.metric, data.labels)
    changed = bool(plan.removed) or any(layer.choice.changes for layer in plan.layers)
    changed |= any(not each.is_dense for each in plan.attention)
    changed |= any(not each.is_dense for each in plan.experts)
    changed |= any(not each.is_whole for each in plan.mixtures)
    grade = exam.grade(session_of_model(graph)) if changed else Grade(0.0)
    met = grade.certain <= budget.limit if budget.kind == "drop" else budget.met
    return budget.model_copy(update={"drop": grade.drop, "met": met})


def _misfit(layer: Layer, choice: Choice) -> str:
    """Why a layer cannot have the structure of a choice, or ""."""
    beside = choice.changes and choice.pattern != DENSE
    return structured.misfit(layer, Structure.parse(choice.structure), with_sparse=beside)


def _check_layers(layers: Sequence[Layer], plan: Plan) -> None:
    """That a plan's layers are the model's, and its choices fit them."""
    planned = {layer.name: layer for layer in plan.layers}
    fix = "apply the plan to the model it was made for, or another checkpoint of it"
    if missing := [name for name in planned if name not in {layer.name for layer in layers}]:
        raise PlanError(f"the plan has a layer {missing[0]!r}, the model has none", fix=fix)
    for layer in layers:
        found = planned.get(layer.name)
        if found is None:
            raise PlanError(f"the plan has no layer {layer.name!r}, the model has one", fix=fix)
        if (found.op, found.rows, found.cols) != (layer.op, layer.rows, layer.cols):
            raise PlanError(
                f"the plan has {layer.name!r} as {found.op} [{found.rows}, {found.cols}], the "
                f"model as {layer.op} [{layer.rows}, {layer.cols}]",
                fix=fix,
            )
        if found.choice.structure and (why := _misfit(layer, found.choice)):
            raise PlanError(
                f"the plan asks for {found.choice.structure} in {layer.name!r}: {why}",
                fix="choose a structure that fits, or none",
            )
        if why := misfit(layer, found.choice.pattern):
            raise PlanError(
                f"the plan asks for {found.choice.pattern} in {layer.name!r}: {why}",
                fix="choose a pattern that fits, or dense",
            )


__all__ = ["follow", "plan_of", "prune", "prune_as_asked"]
