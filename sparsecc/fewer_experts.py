"""How many experts the mixtures of a model keep: as asked, searched for, or as a plan says."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Sequence

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.errors import CalibrationError, PlanError
from sparsecc.executor import in_threads
from sparsecc.job import Job
from sparsecc.passes.experts.carry_out import carry_out
from sparsecc.passes.experts.find import Mixture, find_mixtures
from sparsecc.passes.experts.offers import Weighed, weigh
from sparsecc.passes.experts.routing import Observed, observe
from sparsecc.progress import Progress, counted, part
from sparsecc.quality.exam import Grade, set_exam
from sparsecc.request import Request
from sparsecc.search.fields import read_share
from sparsecc.search.plan import PlanBudget
from sparsecc.search.routing import PlanMixture

PASS_NAME = "experts"
SHARE = 0.3
"""Share of the progress that it is."""
LADDER = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
"""Shares of experts that a search lets mixtures keep."""
LOSSES = (0.0, *(2.0**step for step in range(-24, 1)))
"""What a mixture may lose: all that is tried, nothing and 2⁻²⁴ to 1."""


@dataclasses.dataclass(frozen=True)
class Fewer:
    """What mixtures keep.

    Attributes:
        entries: As a plan says it.
        budget: What the search was allowed and what it came to, if there was a limit.
    """

    entries: tuple[PlanMixture, ...] = ()
    budget: PlanBudget | None = None


def with_fewer(
    job: Job, asked: Request | Sequence[PlanMixture], progress: Progress
) -> tuple[Job, Fewer, Progress]:
    """The job with a model whose mixtures have fewer experts, and know how tokens spread over them.

    Args:
        job: Its context is told of mixtures that keep all of theirs.
        asked: A request, or what a plan says.
        progress: Told what is being done.

    Returns:
        The job, what is kept, and the progress of what follows; the job as it is where there are
        no mixtures, or no data and no plan to say how tokens spread.

    Raises:
        PlanError: The model has no such mixture, or a token has as many experts as there are.
        CalibrationError: There are no data, or the model does not run on them.
    """
    if isinstance(asked, Request):
        mixtures = find_mixtures(job.graph)
        _check(job, mixtures)
        if not mixtures or job.data is None:
            return job, Fewer(), progress
        fewer = _as_asked(job, asked, part(progress, 0.0, SHARE))
        progress = part(progress, SHARE, 1.0)
    else:
        fewer = Fewer(tuple(asked))
    if not fewer.entries:
        return job, fewer, progress
    graph = job.graph.clone()
    carry_out(graph, fewer.entries)
    return dataclasses.replace(job, graph=graph), fewer, progress


def _check(job: Job, mixtures: Sequence[Mixture]) -> None:
    if job.request.keep_experts is None:
        return
    if not mixtures:
        raise PlanError(
            "the model has no mixture of experts that could keep fewer",
            fix="leave out keep_experts; the report of a compilation says what was not recognised",
        )
    if job.data is None:
        raise CalibrationError(
            "which experts can go is told by calibration data, and there are none",
            fix="pass calibration: typical inputs, some hundred samples of each",
        )


def _as_asked(job: Job, request: Request, progress: Progress) -> Fewer:
    assert job.data is not None
    seen = observe(job.graph, job.data, counted(part(progress, 0.0, 0.4)))
    if request.keep_experts is None:
        return Fewer(tuple(weigh(each, (), request.target).whole for each in seen))
    share = read_share(request.keep_experts, "experts")
    progress("which experts can go", 0.4)
    nodes = {str(node.name): node for node in job.graph.graph}
    for each in seen:
        if each.mixture.why:
            why = f"its experts can become one, but none is left out: {each.mixture.why}"
            job.ctx.refuse(PASS_NAME, nodes[each.mixture.name], why)
    shares = LADDER if share is None else (share,)
    weighed = in_threads(lambda each: _weighed(each, shares, job), seen)
    if share is None:
        return _within(job, weighed, part(progress, 0.6, 1.0))
    why = f"a share of {share:g} is all of them, or a token has as many"
    return _said(job, Fewer(tuple(each.chosen(lambda _: True, why) for each in weighed)))


def _weighed(seen: Observed, shares: Sequence[float], job: Job) -> Weighed:
    count = seen.mixture.count
    numbers = {max(seen.mixture.least, math.ceil(share * count - 1e-9)) for share in shares}
    kept = sorted((each for each in numbers if each < count), reverse=True)
    return weigh(seen, kept, job.request.target)


def _within(job: Job, weighed: Sequence[Weighed], progress: Progress) -> Fewer:
    """What keeps to a drop: each mixture has the fewest experts that lose no more than a loss.

    It is the same for all of them, the largest under which the model keeps to the drop.
    """
    request, data = job.request, job.data
    assert data is not None
    if not data.held_out:
        raise CalibrationError(
            "one batch of calibration data: nothing is left to judge experts by",
            fix="pass at least two batches of samples",
        )
    limit = request.each_drop
    assert limit is not None
    exam = set_exam(session_of_model(job.graph), data.held_out, request.quality, data.labels)
    tried: dict[float, Grade] = {}

    def chosen(loss: float) -> tuple[PlanMixture, ...]:
        why = f"any fewer lose more than {loss:.2%} of its result, which is what the limit allows"
        return tuple(each.chosen(lambda option: option.loss <= loss, why) for each in weighed)

    def keeps(loss: float) -> bool:
        progress("what fewer experts lose", len(tried) / len(LOSSES).bit_length())
        graph, entries = job.graph.clone(), chosen(loss)
        carry_out(graph, entries)
        some = any(not each.is_whole for each in entries)
        tried[loss] = exam.grade(session_of_model(graph)) if some else Grade(0.0)
        return tried[loss].certain <= limit

    met = bisect.bisect_left(LOSSES, True, key=lambda loss: not keeps(loss))
    if met:
        entries, drop = chosen(LOSSES[met - 1]), tried[LOSSES[met - 1]].drop
    else:
        least = min(each.certain for each in tried.values())
        why = f"every choice of fewer that was tried loses {least:.2%} or more of {exam.metric}"
        entries, drop = tuple(each.chosen(lambda _: False, why) for each in weighed), 0.0
    budget = PlanBudget(kind="drop", limit=limit, metric=exam.metric, drop=drop, met=True)
    return _said(job, Fewer(entries, budget))


def _said(job: Job, fewer: Fewer) -> Fewer:
    """Mixtures that keep all experts are told of, with the reason."""
    nodes = {str(node.name): node for node in job.graph.graph}
    for each in fewer.entries:
        if each.is_whole:
            job.ctx.refuse(PASS_NAME, nodes[each.name], f"all its experts stay: {each.reason}")
    return fewer


__all__ = ["Fewer", "with_fewer"]
