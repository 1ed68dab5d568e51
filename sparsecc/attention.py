"""Which blocks of scores the attentions of a model keep: searched for, or as a plan says."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Collection, Sequence
from functools import partial

import onnx_ir as ir

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.errors import CalibrationError
from sparsecc.job import Job
from sparsecc.passes.attention.modes import Grid
from sparsecc.passes.attention.online import as_full, as_online, moves, recalls, with_recalls
from sparsecc.passes.attention.plan import (
    PASS_NAME,
    as_ops,
    asked_for,
    carry_out,
    keeping,
    patterns_of,
    planned,
    unsearched,
)
from sparsecc.passes.attention.search import PAPER, Price, Table, outputs, weigh
from sparsecc.passes.base import Context
from sparsecc.progress import Progress, counted, part
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.exam import Exam, Grade, set_exam
from sparsecc.request import Request
from sparsecc.search.attentions import PlanAttention, PlanOnline
from sparsecc.search.plan import PlanBudget

SHARE = 0.4
"""Share of the progress that a search is."""
ONLINE = 0.5
"""What attentions that search online may use of a drop of quality where others do not."""
FREE = Price.of(0.0)
"""Time is worth nothing: heads stay full."""
PRICES = tuple(2.0 ** (step / 2) for step in range(-32, 5))
"""What time may be worth, as an error: all that is tried, from 2⁻¹⁶ to 4."""
LADDER = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Shares of blocks that an online search may leave out within a limit, up to what was asked for."""


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


@dataclasses.dataclass(frozen=True)
class _Weighed:
    """What was tried for the heads of a model, and what it was tried on.

    Attributes:
        job: With the model as it came.
        data: Its calibration data.
        graph: The model with an op for each attention, which leaves nothing out.
        table: What was tried.
    """

    job: Job
    data: Calibration
    graph: ir.Model
    grid: Grid
    table: Table

    def entries(self, price: Price, reason: str) -> list[PlanAttention]:
        """What is chosen at a price; the reason is why heads are full where they are."""
        return [
            planned(name, self.grid, heads, price, reason) for name, heads in self.table.items()
        ]

    def without(self, names: Collection[str]) -> _Weighed:
        """The same without some attentions."""
        others = {name: heads for name, heads in self.table.items() if name not in names}
        return dataclasses.replace(self, table=others)

    def with_recalls(self, entries: Sequence[PlanAttention]) -> list[PlanAttention]:
        """What is chosen, with the share of their softmax that heads keep, as far as is measured.

        Heads of attentions that are searched online have one from before.
        """
        if not self.data.held_out:
            return list(entries)
        static = {each.name: patterns_of(each) for each in entries if each.online is None}
        found, held_out = (
            recalls(self.graph, static, feeds) for feeds in (self.data.train, self.data.held_out)
        )
        return [
            each
            if each.online is not None
            else with_recalls(each, found[each.name], held_out[each.name])
            for each in entries
        ]


def _searched(job: Job, request: Request, spec: str, progress: Progress) -> Kept:
    limit, data, online = request.each_drop, job.data, request.online
    if data is None and (online is None or limit is not None):
        raise CalibrationError(
            "the blocks of attention are searched on calibration data, and there are none",
            fix="pass calibration: some calls of the model, such as the steps of one sampling; or "
            "online alone, which searches while the model runs",
        )
    if data is not None and not data.held_out and (limit is not None or online is not None):
        raise CalibrationError(
            "one batch of calibration data: nothing is left to judge attention by",
            fix="pass at least two batches, such as the steps of one sampling",
        )
    graph = job.graph.clone()
    found, grid = asked_for(graph, spec, job.ctx)
    nodes = as_ops(graph, found)
    if data is None:
        assert online is not None
        return Kept(tuple(as_online(unsearched(n, grid, request.target), online) for n in nodes))
    told = counted(part(progress, 0.0, 0.6))
    price = PAPER if limit is None else FREE
    grids = {str(node.name): grid for node in nodes}
    table = weigh(graph, grids, data.train, request.target, price=price, told=told)
    weighed = _Weighed(job, data, graph, grid, table)
    if limit is None:
        chosen = weighed.entries(price, "no mode loses little enough")
        return Kept(_settled(weighed.with_recalls(chosen), online, job.ctx))
    return _within(limit, weighed, online, part(progress, 0.6, 1.0))


def _settled(
    entries: Sequence[PlanAttention], online: PlanOnline | None, ctx: Context
) -> tuple[PlanAttention, ...]:
    """Attentions whose blocks move go online; where nobody asked for that, it is said of them."""
    moving = [each for each in entries if each.online is None and moves(each)]
    if online is not None:
        return tuple(as_online(each, online) if each in moving else each for each in entries)
    for entry in moving:
        head = entry.heads[entry.worst]
        why = (
            f"head {entry.worst} of {entry.name!r} keeps blocks that hold {head.recall:.0%} of its "
            f"softmax on the samples they were chosen on, {head.held_out_recall:.0%} on held-out "
            "ones: they move with the input; give online, the steps of a sampling, to search "
            "while the model runs"
        )
        ctx.refuse(PASS_NAME, None, why)
    return tuple(entries)


def _within(limit: float, weighed: _Weighed, online: PlanOnline | None, progress: Progress) -> Kept:
    """What keeps to a limit: what a head's time is worth is the largest under which the model does.

    The same price for all heads loses least in all for the time that it saves (Everett, 1963).
    Attentions that go online do so by what the paper's price chooses, and take their share first.
    """
    data, job = weighed.data, weighed.job
    exam = set_exam(session_of_model(job.graph), data.held_out, job.request.quality, data.labels)
    tried: dict[float, Grade] = {}
    searched, grade = list[PlanAttention](), Grade(0.0)
    if online is not None:
        progress("which blocks of attention move with the input", 0.0)
        moving = [each for each in weighed.with_recalls(weighed.entries(PAPER, "")) if moves(each)]
        static = weighed.without({each.name for each in moving})
        ours = limit * (ONLINE if static.table else 1.0)
        searched, grade = _sparsest(moving, online, ours, partial(_graded, exam, weighed.graph))
    else:
        static = weighed

    def keeps(time: float) -> bool:
        progress("what attention over blocks loses", len(tried) / len(PRICES).bit_length())
        entries = [*static.entries(Price.of(time), ""), *searched]
        tried[time] = _graded(exam, weighed.graph, entries)
        return tried[time].certain <= limit

    prices = PRICES if static.table else ()
    met = bisect.bisect_left(prices, True, key=lambda time: not keeps(time))
    time = prices[met - 1] if met else 0.0
    drop = tried[time].drop if met else grade.drop
    lost = min((each.certain for each in tried.values()), default=0.0)
    reason = f"every choice that was tried loses {lost:.2%} or more of {exam.metric}"
    if met:
        reason = f"no head saves time for an error that the limit allows ({time:.3g} for all of it)"
    budget = PlanBudget(kind="drop", limit=limit, metric=exam.metric, drop=drop, met=True)
    chosen = {each.name: each for each in (*static.entries(Price.of(time), reason), *searched)}
    entries = weighed.with_recalls([chosen[name] for name in weighed.table])
    return Kept(_settled(entries, None, job.ctx) if online is None else tuple(entries), budget)


def _sparsest(
    moving: Sequence[PlanAttention],
    online: PlanOnline,
    limit: float,
    graded: Callable[[Sequence[PlanAttention]], Grade],
) -> tuple[list[PlanAttention], Grade]:
    """Attentions that search online, with the most sparsity that keeps to a limit; else all blocks.

    They are judged as searched for each sample: samples do not say which of them follow another in
    one sampling, so that blocks from an earlier step cannot be had.
    """
    lost = None
    for sparsity in (online.sparsity, *(each for each in LADDER if each < online.sparsity)):
        less = online.model_copy(update={"sparsity": sparsity})
        entries = [as_online(each, less) for each in moving]
        if all(each.is_dense for each in entries):  # nor does it pay to leave out less
            break
        grade = graded(entries)
        if grade.certain <= limit:
            return entries, grade
        lost = sparsity
    if lost is not None:
        why = f"its blocks move with the input, and {lost:.0%} of them cannot be left out"
        entries = [as_full(each, why) for each in moving]
    return entries, Grade(0.0)


def _graded(exam: Exam, graph: ir.Model, entries: Sequence[PlanAttention]) -> Grade:
    kept = {entry.name: keeping(entry) for entry in entries if not entry.is_dense}
    return exam.graded(outputs(graph, kept, exam.feeds))


__all__ = ["Kept", "over_blocks"]
