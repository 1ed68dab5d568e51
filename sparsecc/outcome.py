"""What is done to the weights of a model: as asked, as searched, or as a plan says."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

import sparsecc
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.cost.model import cost_model
from sparsecc.errors import CalibrationError, PlanError
from sparsecc.executor import open_executor
from sparsecc.formats.patterns import DENSE
from sparsecc.formats.structures import Structure
from sparsecc.identity import model_hash
from sparsecc.manifest import NodeEntry
from sparsecc.ordering import FOR_CHOICES, FOR_SEARCH, in_order, with_notes
from sparsecc.passes.base import Context
from sparsecc.passes.structured import rewrite as structured
from sparsecc.passes.structured.detect import exact_structures, exactly
from sparsecc.passes.weights.layers import Layer, find_layers
from sparsecc.passes.weights.prune import LayerResult, detect_layers, prune_model
from sparsecc.passes.weights.spread import by_losses, by_outliers
from sparsecc.planner import Found, Wish, find_plan
from sparsecc.progress import Progress, counted, part
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.exam import LABELLED, MEASURES, Grade, set_exam
from sparsecc.recovery import RELIEF, recovered
from sparsecc.report.rows import LayerRow
from sparsecc.request import Request
from sparsecc.search.allocation import MEASURED, Decision, allocate, by_size, misfit, to_spread
from sparsecc.search.plan import Choice, Plan, PlanBudget, PlanLayer, PlanRecovery, PlanRefusal

PRUNING = 0.3
"""Share of the progress that pruning is where a recovery follows."""
SEARCH = "search"
"""What a plan says was asked for where it was searched."""
PERMUTING = 0.2
"""Share of the progress that looking for the order of channels is, where it is done."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A model on its way.

    Attributes:
        request: What the user asked for.
        ctx: Shared by all passes.
        graph: The dense model in canonical form; nothing changes it.
        identity: Hash of the model as it was captured.
        data: Calibration data, if there are any.
        before: Its nodes as they were captured, as the manifest lists them.
        dense_bytes: Bytes of its weights.
    """

    request: Request
    ctx: Context
    graph: ir.Model
    identity: str
    data: Calibration | None
    before: list[NodeEntry]
    dense_bytes: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A model with its weights as they will be.

    Attributes:
        graph: The model, still in canonical form.
        decisions: Layer name → what was decided.
        results: Layer name → what became of it.
        source: What a plan says besides its layers: where they come from.
        options: Layer name → what was weighed, as the plan's layers say it.
    """

    graph: ir.Model
    decisions: Mapping[str, Decision]
    results: Mapping[str, LayerResult]
    source: Mapping[str, Any]
    options: Mapping[str, Any]


def prune_as_asked(job: Job, progress: Progress, *, best_effort: bool = False) -> Outcome:
    """Search for a plan where there is a budget, else do what was asked for.

    Raises:
        CalibrationError: A search has no data.
        PlanError: No plan keeps to the budget, and ``best_effort`` is false.
    """
    if job.request.budget is not None:
        return _searched(job, progress, best_effort=best_effort)
    request = job.request
    deciding = 0.4 if request.allocation in MEASURED else 0.0
    trained = 1.0 if request.recover is None else PRUNING + deciding
    decisions = decide(job, part(progress, 0.0, deciding * trained))
    permuted, notes = FOR_CHOICES if request.permute else "", dict[str, str]()
    if permuted:
        progress, ordering = part(progress, PERMUTING, 1.0), part(progress, 0.0, PERMUTING)
        job, notes = _in_order(job, decisions, permuted, request.seed, ordering)
    graph = job.graph.clone()
    results = prune(graph, decisions, job, part(progress, deciding * trained, trained))
    source = {
        "spec": str(request.spec),
        "overrides": {name: str(spec) for name, spec in request.overrides.items()},
        "allocation": request.allocation,
        "permuted": permuted,
        "costs": cost_model(request.target).name,
        "seed": request.seed,
        "recovery": _recovered(job, graph, part(progress, trained, 1.0)),
    }
    return Outcome(graph, decisions, with_notes(results, notes), source, {})


def follow(job: Job, plan: Plan, progress: Progress) -> Outcome:
    """Do what a plan says.

    Raises:
        PlanError: The plan is for another model, or a choice does not fit its layer.
    """
    _check_layers(find_layers(job.graph).layers, plan)
    decisions = {layer.name: Decision(layer.choice) for layer in plan.layers}
    notes = dict[str, str]()
    if plan.permuted:
        progress, ordering = part(progress, PERMUTING, 1.0), part(progress, 0.0, PERMUTING)
        job, notes = _in_order(job, decisions, plan.permuted, plan.seed, ordering)
    graph = job.graph.clone()
    share = 1.0 if plan.recovery is None else PRUNING
    results = prune(graph, decisions, job, part(progress, 0.0, share))
    recovery = _recovered(job, graph, part(progress, share, 1.0))
    kept = ("spec", "overrides", "allocation", "permuted", "mode", "seed", "costs", "points")
    source = {name: getattr(plan, name) for name in kept}
    source |= {"budget": _examined(job, graph, plan), "recovery": recovery}
    options = {layer.name: layer.options for layer in plan.layers}
    return Outcome(graph, decisions, with_notes(results, notes), source, options)


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
        densities=_densities(job, layers, progress),
        method=request.score,
        refit=request.refit,
        detected=detect_layers(layers),
    )
    # eight bits are for whole weights; whoever asks for zeros gets them
    free = [each for each in layers if _is_free(each, decisions[each.name], request)]
    found = exact_structures(free, request.target, counted(progress))
    return decisions | {name: Decision(exactly(each)) for name, each in found.items()}


def _is_free(layer: Layer, decision: Decision, request: Request) -> bool:
    """Whether nobody asked for anything else than the weight as it is."""
    as_it_is = not decision.choice.changes or decision.reason == layer.keep_dense != ""
    return as_it_is and not request.quantize


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
    choices = {name: decision.choice for name, decision in decisions.items()}
    with open_executor(job.request.executor) as executor:
        results = prune_model(
            graph, choices, job.data, executor=executor, on_progress=counted(progress)
        )
    return {result.name: result for result in results}


def _in_order(
    job: Job, decisions: Mapping[str, Decision], permuted: str, seed: int, progress: Progress
) -> tuple[Job, dict[str, str]]:
    """The job with the channels of its dense model in a better order, and what that changed."""
    choices = {name: decision.choice for name, decision in decisions.items()}
    graph, notes = in_order(job.graph, choices, permuted, job.data, job.ctx, seed, progress)
    return dataclasses.replace(job, graph=graph), notes


def plan_of(job: Job, outcome: Outcome, rows: Sequence[LayerRow]) -> Plan:
    """The plan that was carried out."""
    return Plan(
        sparsecc=sparsecc.__version__,
        model_hash=job.identity,
        target=job.request.target.name,
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


def _searched(job: Job, progress: Progress, *, best_effort: bool) -> Outcome:
    request = job.request
    assert request.budget is not None
    data = job.data
    if data is None:
        raise CalibrationError(
            "a budget needs calibration data to measure losses on, and there are none",
            fix="pass calibration: typical inputs, some hundred samples of each",
        )
    wish = Wish(
        kind=request.budget.kind,
        limit=request.budget.limit,
        mode=request.mode,
        method=request.score,
        refit=request.refit,
        seed=request.seed,
        quality=request.quality,
    )
    permuted, notes = FOR_SEARCH if request.permute else "", dict[str, str]()
    if permuted:
        progress, ordering = part(progress, PERMUTING, 1.0), part(progress, 0.0, PERMUTING)
        job, notes = _in_order(job, {}, permuted, request.seed, ordering)
    with open_executor(request.executor) as executor:
        search = functools.partial(find_plan, job.graph, data, request.target)
        if request.recover is None:
            found, recovery = search(wish, executor, progress), None
        else:
            found, recovery = _searched_and_recovered(
                job, wish, lambda each, told: search(each, executor, told), progress
            )
    if not found.budget.met and not best_effort:
        raise _unmet(found)
    decisions = {name: Decision(choice, found.reason) for name, choice in found.choices.items()}
    source = {
        "spec": SEARCH,
        "costs": cost_model(request.target).name,
        "permuted": permuted,
        "mode": request.mode,
        "seed": request.seed,
        "points": found.points,
        "budget": found.budget,
        "recovery": recovery,
    }
    results = with_notes(found.results, notes)
    return Outcome(found.model, decisions, results, source, found.options)


def _searched_and_recovered(
    job: Job, wish: Wish, search: Callable[[Wish, Progress], Found], progress: Progress
) -> tuple[Found, PlanRecovery | None]:
    """The plan of a search that counts on the recovery, or of one that does not.

    A plan may lose RELIEF times what the budget allows if the recovery brings it back within; if it
    does not, a plan that keeps to the budget by itself is recovered, for what that is worth.
    """
    reliefs = (RELIEF, 1.0) if wish.kind == "drop" else (1.0,)
    for number, relief in enumerate(reliefs):
        told = part(progress, number / len(reliefs), (number + 1) / len(reliefs))
        loose = dataclasses.replace(wish, limit=min(wish.limit * relief, 1.0))
        found = search(loose, part(told, 0.0, 0.5))
        recovery = _recovered(job, found.model, part(told, 0.5, 1.0))
        if recovery is not None:
            found = _examined_again(found, wish.limit)
        if found.budget.met and found.budget.drop <= wish.limit:
            break
    return found, recovery


def _examined_again(found: Found, limit: float) -> Found:
    """A found plan with the drop of its recovered model, beside that of the pruned one."""
    grade = found.exam.grade(session_of_model(found.model))
    pruned = next(point for point in found.points if point.chosen)
    points = [point.model_copy(update={"chosen": False}) for point in found.points]
    points.append(pruned.model_copy(update={"name": "recovered", "drop": grade.drop}))
    met = found.budget.met
    if found.budget.kind == "drop":
        met = grade.certain <= limit
    return dataclasses.replace(
        found,
        points=tuple(sorted(points, key=lambda point: (point.predicted_ms, point.name))),
        budget=found.budget.model_copy(update={"limit": limit, "drop": grade.drop, "met": met}),
    )


def _recovered(job: Job, graph: ir.Model, progress: Progress) -> PlanRecovery | None:
    """Train a pruned model where that was asked for and there is something to win back."""
    effort = job.request.recover
    if effort is None or model_hash(graph) == model_hash(job.graph):
        return None
    return recovered(job.graph, graph, job.data, job.request, effort, progress)


def _examined(job: Job, graph: ir.Model, plan: Plan) -> PlanBudget | None:
    """The plan's budget with the drop that this model shows; None where it cannot be measured."""
    budget, data = plan.budget, job.data
    if budget is None or data is None or not data.held_out:
        return None
    if budget.metric not in (*MEASURES, *([LABELLED] if data.labels is not None else [])):
        return None
    exam = set_exam(session_of_model(job.graph), data.held_out, budget.metric, data.labels)
    changed = any(layer.choice.method != "existing" for layer in plan.layers)
    grade = exam.grade(session_of_model(graph)) if changed else Grade(0.0)
    met = grade.certain <= budget.limit if budget.kind == "drop" else budget.met
    return budget.model_copy(update={"drop": grade.drop, "met": met})


def _unmet(found: Found) -> PlanError:
    unit = "ms" if found.budget.kind == "ms" else "bytes of weights"
    best = next(point for point in found.points if point.chosen)
    return PlanError(
        f"no plan keeps to {found.budget.limit:g} {unit}: the nearest takes {found.reached:.4g}, "
        f"{best.predicted_ms:.4g} ms in all, and loses {found.budget.drop:.2%} of "
        f"{found.budget.metric}",
        fix=f"allow {found.reached:.4g} {unit}, or ask for the best effort",
    )


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


__all__ = ["Job", "Outcome", "follow", "plan_of", "prune", "prune_as_asked"]
