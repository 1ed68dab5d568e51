"""How many experts the mixtures of a model keep: as asked, searched for, or as a plan says."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import get_args

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.errors import CalibrationError, PlanError
from sparsecc.executor import in_threads
from sparsecc.job import Job
from sparsecc.passes.experts.carry_out import carry_out
from sparsecc.passes.experts.find import Mixture, find_mixtures
from sparsecc.passes.experts.offers import Weighed, weigh
from sparsecc.passes.experts.routing import Observed, observe
from sparsecc.progress import Progress, counted, part
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.exam import Exam, Grade, set_exam
from sparsecc.request import Request
from sparsecc.search.fields import read_share
from sparsecc.search.plan import PlanBudget
from sparsecc.search.routing import Means, PlanMixture, PlanOfFewer

PASS_NAME = "experts"
SHARE = 0.3
"""Share of the progress that it is."""
LADDER = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
"""Shares of experts that a search lets mixtures keep."""
MEANS = get_args(Means)
MOST_GRADES = 18
"""Examinations of a search, about."""
Seen = Mapping[str, Observed]
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
        seen = _seen(job, part(progress, 0.0, 0.4 * SHARE))
        fewer = _as_asked(job, asked, seen, part(progress, 0.4 * SHARE, SHARE))
        progress = part(progress, SHARE, 1.0)
    else:
        fewer = Fewer(tuple(asked))
        refits = job.data is not None and any(each.refit for each in asked)
        seen = _seen(job, part(progress, 0.0, SHARE)) if refits else {}
    if not fewer.entries:
        return job, fewer, progress
    graph = job.graph.clone()
    carry_out(graph, fewer.entries, seen)
    return dataclasses.replace(job, graph=graph), fewer, progress


def _seen(job: Job, progress: Progress) -> Seen:
    assert job.data is not None
    found = observe(job.graph, job.data, counted(progress))
    return {each.mixture.name: each for each in found}


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


def _as_asked(job: Job, request: Request, seen: Seen, progress: Progress) -> Fewer:
    if request.keep_experts is None:
        return Fewer(tuple(weigh(each, (), request.target).whole for each in seen.values()))
    share = read_share(request.keep_experts, "experts")
    progress("which experts can go", 0.0)
    nodes = {str(node.name): node for node in job.graph.graph}
    for name, each in seen.items():
        if each.mixture.why:
            why = f"its experts can become one, but none is left out: {each.mixture.why}"
            job.ctx.refuse(PASS_NAME, nodes[name], why)
    shares = LADDER if share is None else (share,)
    weighed = in_threads(lambda each: _weighed(each, shares, request), seen.values())
    desk = _Desk(job, seen, weighed, part(progress, 0.4, 1.0))
    return _said(job, desk.within() if share is None else desk.of_share(share))


def _weighed(seen: Observed, shares: Sequence[float], request: Request) -> Weighed:
    count = seen.mixture.count
    numbers = {max(seen.mixture.least, math.ceil(share * count - 1e-9)) for share in shares}
    kept = sorted((each for each in numbers if each < count), reverse=True)
    return weigh(seen, kept, request.target, refit=request.refit)


class _Desk:
    """Where choices of experts are carried out and the model is examined."""

    def __init__(
        self, job: Job, seen: Seen, weighed: Sequence[Weighed], progress: Progress
    ) -> None:
        self._job, self._seen, self._weighed = job, seen, weighed
        self._progress = progress
        self._grades: dict[tuple[PlanMixture, ...], Grade] = {}

    def of_share(self, share: float) -> Fewer:
        """Of the means of all mixtures, those that lose least of the model's quality."""
        why = f"a share of {share:g} is all of them, or a token has as many"
        choices = [self._chosen(each, why) for each in (*MEANS, "")]
        if not self._data.held_out:
            return Fewer(choices[-1])  # the means that lose less of each result
        grades = {each: self._grade(each) for each in choices}
        return Fewer(min(grades, key=lambda each: (grades[each].drop, grades[each].distance)))

    def within(self) -> Fewer:
        """The fewest experts within a drop of quality.

        Each mixture has the fewest that lose no more than a loss, the same for all of them: the
        largest under which the model keeps to the drop.

        Raises:
            CalibrationError: Nothing is held out.
        """
        if not self._data.held_out:
            raise CalibrationError(
                "one batch of calibration data: nothing is left to judge experts by",
                fix="pass at least two batches of samples",
            )
        limit = self._job.request.each_drop
        assert limit is not None
        found = [self._fewest(means, limit) for means in (*MEANS, "")]
        best = min(found, key=lambda each: (_size(each), self._grade(each).drop))
        if all(each.is_whole for each in best):
            lost = [each.certain for entries, each in self._grades.items() if _is_fewer(entries)]
            why = f"every choice of fewer that was tried loses {min(lost, default=0):.2%} or more"
            best = tuple(each.model_copy(update={"reason": why}) for each in best)
        drop, metric = self._grade(best).drop, self._exam.metric
        budget = PlanBudget(kind="drop", limit=limit, metric=metric, drop=drop, met=True)
        return Fewer(best, budget)

    def _fewest(self, means: str, limit: float) -> tuple[PlanMixture, ...]:
        def chosen(loss: float) -> tuple[PlanMixture, ...]:
            why = f"any fewer lose more than {loss:.2%} of its result, as the limit allows"
            return self._chosen(means, why, loss)

        met = bisect.bisect_left(
            LOSSES, True, key=lambda loss: self._grade(chosen(loss)).certain > limit
        )
        return chosen(LOSSES[met - 1] if met else -1.0)

    def _chosen(self, means: str, why: str, loss: float = math.inf) -> tuple[PlanMixture, ...]:
        """The fewest experts that lose no more, by means if there are any, else by either."""

        def fits(option: PlanOfFewer) -> bool:
            return option.loss <= loss and means in ("", option.means)

        return tuple(each.chosen(fits, why) for each in self._weighed)

    @property
    def _data(self) -> Calibration:
        assert self._job.data is not None
        return self._job.data

    @functools.cached_property
    def _exam(self) -> Exam:
        job, data = self._job, self._data
        dense = session_of_model(job.graph)
        return set_exam(dense, data.held_out, job.request.quality, data.labels)

    def _grade(self, entries: tuple[PlanMixture, ...]) -> Grade:
        if not _is_fewer(entries):
            return Grade(0.0)
        if entries not in self._grades:
            self._progress("what fewer experts lose", min(1.0, len(self._grades) / MOST_GRADES))
            graph = self._job.graph.clone()
            carry_out(graph, entries, self._seen)
            self._grades[entries] = self._exam.grade(session_of_model(graph))
        return self._grades[entries]


def _is_fewer(entries: Sequence[PlanMixture]) -> bool:
    return any(not each.is_whole for each in entries)


def _size(entries: Sequence[PlanMixture]) -> int:
    """Experts in all."""
    return sum(each.kept for each in entries)


def _said(job: Job, fewer: Fewer) -> Fewer:
    """Mixtures that keep all experts are told of, with the reason."""
    nodes = {str(node.name): node for node in job.graph.graph}
    for each in fewer.entries:
        if each.is_whole:
            job.ctx.refuse(PASS_NAME, nodes[each.name], f"all its experts stay: {each.reason}")
    return fewer


__all__ = ["Fewer", "with_fewer"]
