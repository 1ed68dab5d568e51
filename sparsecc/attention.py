"""Which blocks of scores the attentions of a model keep: searched for, or as a plan says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.errors import CalibrationError
from sparsecc.job import Job
from sparsecc.passes.attention.modes import Grid
from sparsecc.passes.attention.plan import as_ops, asked_for, carry_out, offers_of, planned
from sparsecc.passes.attention.search import MOST_LOSS, Table, outputs, weigh
from sparsecc.progress import Progress, counted, part
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.exam import Exam, Grade, set_exam
from sparsecc.request import Request
from sparsecc.search.plan import PlanAttention, PlanBudget

SHARE = 0.4
"""Share of the progress that a search is."""
OF_THE_DROP = 0.5
"""What attention may use of a drop of quality where weights are searched for as well."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """What attentions keep.

    Attributes:
        entries: As a plan says it.
        budget: What the search was allowed and what it came to, if there was a limit.
    """

    entries: tuple[PlanAttention, ...] = ()
    budget: PlanBudget | None = None


def over_blocks(
    job: Job, asked: Request | Sequence[PlanAttention], progress: Progress
) -> tuple[Job, Kept, Progress]:
    """The job with a dense model whose attentions keep some of their blocks.

    Args:
        job: Its context is told of attentions that are left alone.
        asked: A request, or what a plan says.
        progress: Told what is being done.

    Returns:
        The job, what is kept, and the progress of what follows; the job as it is where nothing is
        asked for.

    Raises:
        PlanError: The model has no such attention, or its tokens are another grid.
        CalibrationError: There are no data, or the model does not run on them.
    """
    if isinstance(asked, Request):
        if not asked.attention:
            return job, Kept(), progress
        kept = _searched(job, asked, asked.attention, part(progress, 0.0, SHARE))
        progress = part(progress, SHARE, 1.0)
    else:
        kept = Kept(tuple(asked))
    if all(entry.is_dense for entry in kept.entries):
        return job, kept, progress
    graph = job.graph.clone()
    carry_out(graph, kept.entries, job.ctx)
    return dataclasses.replace(job, graph=graph), kept, progress


def _searched(job: Job, request: Request, spec: str, progress: Progress) -> Kept:
    if job.data is None:
        raise CalibrationError(
            "the blocks of attention are searched on calibration data, and there are none",
            fix="pass calibration: some calls of the model, such as the steps of one sampling",
        )
    graph = job.graph.clone()
    found, grid = asked_for(graph, spec, job.ctx)
    grids = {str(node.name): grid for node in as_ops(graph, found)}
    limit = _limit(request)
    most = MOST_LOSS if limit is None else 0.0
    told = counted(part(progress, 0.0, 0.6))
    table = weigh(graph, grids, job.data.train, request.target, most=most, told=told)
    if limit is None:
        return Kept(_entries(table, grids, most, "no mode loses little enough"))
    return _within(limit, job, job.data, graph, table, grids, part(progress, 0.6, 1.0))


def _limit(request: Request) -> float | None:
    """The drop of quality that attention may make, if that is limited."""
    budget = request.budget
    if budget is None:
        return None
    return budget.limit * (OF_THE_DROP if request.searches_weights else 1.0)


def _entries(
    table: Table, grids: Mapping[str, Grid], most: float, reason: str
) -> tuple[PlanAttention, ...]:
    return tuple(planned(name, grids[name], heads, most, reason) for name, heads in table.items())


def _within(
    limit: float,
    job: Job,
    data: Calibration,
    graph: ir.Model,
    table: Table,
    grids: Mapping[str, Grid],
    progress: Progress,
) -> Kept:
    """What keeps to a limit: the largest allowed loss of a head under which the model does.

    Only the losses that heads have make a difference, so these are what is bisected.
    """
    if not data.held_out:
        raise CalibrationError(
            "one batch of calibration data: nothing is left to judge attention by",
            fix="pass at least two batches, such as the steps of one sampling",
        )
    exam = set_exam(session_of_model(job.graph), data.held_out, job.request.quality, data.labels)
    steps = sorted({float(each.losses.min()) for heads in table.values() for each in heads})
    tried: dict[float, Grade] = {}

    def grade(most: float) -> Grade:
        progress("what attention over blocks loses", len(tried) / (len(steps).bit_length() + 1))
        tried[most] = _graded(exam, graph, _entries(table, grids, most, ""))
        return tried[most]

    met, unmet = 0, len(steps) + 1
    if grade(steps[-1]).certain <= limit:
        met = len(steps)
    while met + 1 < min(unmet, len(steps)):
        middle = (met + min(unmet, len(steps))) // 2
        if grade(steps[middle - 1]).certain <= limit:
            met = middle
        else:
            unmet = middle
    most = steps[met - 1] if met else 0.0
    drop = tried[most].drop if met else 0.0
    lost = min(each.certain for each in tried.values())
    reason = f"every choice that was tried loses {lost:.2%} or more of {exam.metric}"
    if met:
        reason = f"each head's least loss is above {most:.3g}, which the limit allows"
    budget = PlanBudget(kind="drop", limit=limit, metric=exam.metric, drop=drop, met=True)
    return Kept(_entries(table, grids, most, reason), budget)


def _graded(exam: Exam, graph: ir.Model, entries: Sequence[PlanAttention]) -> Grade:
    patterns = {
        entry.name: [each.pattern(Grid.parse(entry.grid), entry.block) for each in offers_of(entry)]
        for entry in entries
    }
    return exam.graded(outputs(graph, patterns, exam.feeds))


__all__ = ["Kept", "over_blocks"]
