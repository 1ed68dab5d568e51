"""Which blocks of scores the attentions of a model keep: searched for, or as a plan says."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.errors import CalibrationError
from sparsecc.job import Job
from sparsecc.passes.attention.modes import Grid
from sparsecc.passes.attention.plan import as_ops, asked_for, carry_out, offers_of, planned
from sparsecc.passes.attention.search import PAPER, Price, Table, outputs, weigh
from sparsecc.progress import Progress, counted, part
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.exam import Exam, Grade, set_exam
from sparsecc.request import Request
from sparsecc.search.plan import PlanAttention, PlanBudget

SHARE = 0.4
"""Share of the progress that a search is."""
OF_THE_DROP = 0.5
"""What attention may use of a drop of quality where weights are searched for as well."""
FREE = Price.of(0.0)
"""Time is worth nothing: heads stay full."""
PRICES = tuple(2.0 ** (step / 2) for step in range(-32, 5))
"""What the time of a head may be worth, as an error: all that is tried, from 2⁻¹⁶ to 4."""


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
    price = PAPER if limit is None else FREE
    told = counted(part(progress, 0.0, 0.6))
    table = weigh(graph, grids, job.data.train, request.target, price=price, told=told)
    if limit is None:
        return Kept(_entries(table, grids, price, "no mode loses little enough"))
    return _within(limit, job, job.data, graph, table, grids, part(progress, 0.6, 1.0))


def _limit(request: Request) -> float | None:
    """The drop of quality that attention may make, if that is limited."""
    budget = request.budget
    if budget is None:
        return None
    return budget.limit * (OF_THE_DROP if request.searches_weights else 1.0)


def _entries(
    table: Table, grids: Mapping[str, Grid], price: Price, reason: str
) -> tuple[PlanAttention, ...]:
    return tuple(planned(name, grids[name], heads, price, reason) for name, heads in table.items())


def _within(
    limit: float,
    job: Job,
    data: Calibration,
    graph: ir.Model,
    table: Table,
    grids: Mapping[str, Grid],
    progress: Progress,
) -> Kept:
    """What keeps to a limit: what a head's time is worth is the largest under which the model does.

    The same price for all heads loses least in all for the time that it saves (Everett, 1963).
    """
    if not data.held_out:
        raise CalibrationError(
            "one batch of calibration data: nothing is left to judge attention by",
            fix="pass at least two batches, such as the steps of one sampling",
        )
    exam = set_exam(session_of_model(job.graph), data.held_out, job.request.quality, data.labels)
    tried: dict[float, Grade] = {}

    def keeps(time: float) -> bool:
        progress("what attention over blocks loses", len(tried) / len(PRICES).bit_length())
        entries = _entries(table, grids, Price.of(time), "")
        tried[time] = _graded(exam, graph, entries)
        return tried[time].certain <= limit

    met = bisect.bisect_left(PRICES, True, key=lambda time: not keeps(time))
    time = PRICES[met - 1] if met else 0.0
    drop = tried[time].drop if met else 0.0
    lost = min(each.certain for each in tried.values())
    reason = f"every choice that was tried loses {lost:.2%} or more of {exam.metric}"
    if met:
        reason = f"no head saves time for an error that the limit allows ({time:.3g} for all of it)"
    budget = PlanBudget(kind="drop", limit=limit, metric=exam.metric, drop=drop, met=True)
    return Kept(_entries(table, grids, Price.of(time), reason), budget)


def _graded(exam: Exam, graph: ir.Model, entries: Sequence[PlanAttention]) -> Grade:
    patterns = {
        entry.name: [each.pattern(Grid.parse(entry.grid), entry.block) for each in offers_of(entry)]
        for entry in entries
    }
    return exam.graded(outputs(graph, patterns, exam.feeds))


__all__ = ["Kept", "over_blocks"]
