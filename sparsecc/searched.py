"""What a search within a budget makes of a model, with or without a recovery after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx_ir as ir

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.cost.model import cost_model
from sparsecc.errors import CalibrationError, PlanError
from sparsecc.executor import open_executor
from sparsecc.job import Job, Outcome
from sparsecc.ordering import FOR_SEARCH, in_order, with_notes
from sparsecc.planner import Found, Wish, find_plan
from sparsecc.progress import Progress, part
from sparsecc.recovery import RELIEF, recovered
from sparsecc.search.allocation import Decision
from sparsecc.search.plan import PlanRecovery

SEARCH = "search"
"""What a plan says was asked for where it was searched."""


def searched(job: Job, progress: Progress, *, dense: ir.Model, best_effort: bool) -> Outcome:
    """The best plan within a budget, carried out, and recovered where that was asked for.

    Args:
        job: With the model whose weights are pruned.
        progress: Told what is being done.
        dense: The model that quality is compared with.
        best_effort: Go on with the best plan found where none keeps to the budget.

    Raises:
        CalibrationError: There are no data.
        PlanError: No plan keeps to the budget, and ``best_effort`` is false.
    """
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
    permuted = FOR_SEARCH if request.permute else ""
    job, notes, progress = in_order(job, {}, permuted, request.seed, progress)
    with open_executor(request.executor) as executor:

        def search(wish: Wish, progress: Progress) -> Found:
            return find_plan(job.graph, data, request.target, wish, executor, progress, dense=dense)

        if request.recover is None:
            found, recovery = search(wish, progress), None
        else:
            found, recovery = _searched_and_recovered(job, wish, search, progress)
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
        allowed = found.budget.model_copy(update={"limit": wish.limit})
        found = dataclasses.replace(found, budget=allowed)
        recovery = recovered(_attempt(job, number), found.model, part(told, 0.5, 1.0))
        if recovery is not None:
            found = _examined_again(found)
        if found.budget.met and found.budget.drop <= wish.limit:
            break
    return found, recovery


def _attempt(job: Job, number: int) -> Job:
    """The job of a recovery; each but the first has a checkpoint of its own beside the first's."""
    path = job.request.checkpoint
    if path is None or number == 0:
        return job
    request = dataclasses.replace(
        job.request, checkpoint=path.with_stem(f"{path.stem}-{number + 1}")
    )
    return dataclasses.replace(job, request=request)


def _examined_again(found: Found) -> Found:
    """A found plan with the drop of its recovered model, beside that of the pruned one."""
    grade = found.exam.grade(session_of_model(found.model))
    pruned = next(point for point in found.points if point.chosen)
    points = [point.model_copy(update={"chosen": False}) for point in found.points]
    points.append(pruned.model_copy(update={"name": "recovered", "drop": grade.drop}))
    met = found.budget.met
    if found.budget.kind == "drop":
        met = grade.certain <= found.budget.limit
    return dataclasses.replace(
        found,
        points=tuple(sorted(points, key=lambda point: (point.predicted_ms, point.name))),
        budget=found.budget.model_copy(update={"drop": grade.drop, "met": met}),
    )


def _unmet(found: Found) -> PlanError:
    unit = "ms" if found.budget.kind == "ms" else "bytes of weights"
    best = next(point for point in found.points if point.chosen)
    return PlanError(
        f"no plan keeps to {found.budget.limit:g} {unit}: the nearest takes {found.reached:.4g}, "
        f"{best.predicted_ms:.4g} ms in all, and loses {found.budget.drop:.2%} of "
        f"{found.budget.metric}",
        fix=f"allow {found.reached:.4g} {unit}, or ask for the best effort",
    )


__all__ = ["SEARCH", "searched"]
