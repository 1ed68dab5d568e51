"""Which feed-forward networks of a model become experts: searched for, or as a plan says."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from sparsecc.attention import PRICES
from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.errors import CalibrationError
from sparsecc.job import Job
from sparsecc.passes.split.find import feed_forwards
from sparsecc.passes.split.plan import PASS_NAME, asked_for, carry_out, checked, planned
from sparsecc.passes.split.weigh import Split, Weighed, samples, split, weigh
from sparsecc.progress import Progress, counted, part
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.exam import Grade, set_exam
from sparsecc.request import Request
from sparsecc.search.fields import read_share
from sparsecc.search.mixtures import PlanExperts
from sparsecc.search.plan import PlanBudget

SHARE = 0.4
"""Share of the progress that it is."""
FOR_TIME = 1e6
"""Time is worth any error: what was asked for is done where it is faster."""


@dataclasses.dataclass(frozen=True)
class Made:
    """What became of feed-forward networks.

    Attributes:
        entries: As a plan says it.
        budget: What the search was allowed and what it came to, if there was a limit.
    """

    entries: tuple[PlanExperts, ...] = ()
    budget: PlanBudget | None = None


def into_experts(
    job: Job, asked: Request | Sequence[PlanExperts], progress: Progress
) -> tuple[Job, Made, Progress]:
    """The job with a dense model some of whose feed-forward networks are mixtures of experts.

    Args:
        job: Its context is told of networks that stay as they are.
        asked: A request, or what a plan says.
        progress: Told what is being done.

    Returns:
        The job, what was made, and the progress of what follows; the job as it is where nothing is
        asked for.

    Raises:
        PlanError: The model has no such network, or it is another.
        CalibrationError: There are no data, or the model does not run on them.
    """
    if not asked or (isinstance(asked, Request) and asked.experts is None):
        return job, Made(), progress
    told = part(progress, 0.0, SHARE)
    if isinstance(asked, Request):
        made, splits = _searched(job, _data_of(job), asked, told)
    else:
        made = Made(tuple(asked))
        splits = _split_again(job, made.entries, told)
    graph = job.graph
    if any(not entry.is_dense for entry in made.entries):
        graph = graph.clone()
        carry_out(graph, made.entries, splits)
    return dataclasses.replace(job, graph=graph), made, part(progress, SHARE, 1.0)


def _data_of(job: Job) -> Calibration:
    if job.data is None:
        raise CalibrationError(
            "the router of experts learns from calibration data, and there are none",
            fix="pass calibration: typical inputs, some hundred samples of each",
        )
    return job.data


def _split_again(job: Job, entries: Sequence[PlanExperts], progress: Progress) -> dict[str, Split]:
    """Experts as a plan says, by the name of the network; the same data give the same."""
    networks = feed_forwards(job.graph)
    wanted = {entry.name: entry for entry in entries if not entry.is_dense}
    for each in wanted.values():
        checked(each, {network.name: network for network in networks})
    if not wanted:
        return {}
    seed, told = job.request.seed, counted(progress)
    found = samples(job.graph, networks, _data_of(job), seed, told)
    return {
        network.name: split(network, entry.grouping, entry.experts, here, (seed, at))
        for at, (network, here, _) in enumerate(found)
        if (entry := wanted.get(network.name)) is not None
    }


def _searched(
    job: Job, data: Calibration, request: Request, progress: Progress
) -> tuple[Made, dict[str, Split]]:
    assert request.experts is not None
    share = read_share(request.experts, "neurons")
    if share is None and not data.held_out:
        raise CalibrationError(
            "one batch of calibration data: nothing is left to judge experts by",
            fix="pass at least two batches of samples, or the share of neurons to keep",
        )
    networks, told = asked_for(job.graph), counted(part(progress, 0.0, 0.7))
    found = weigh(job.graph, networks, data, share=share, seed=request.seed, told=told)
    table = list(found)
    splits = {each.found.name: each.split for each in table if each.split is not None}
    if share is not None:
        made = Made(tuple(planned(each, request.target, FOR_TIME) for each in table))
    else:
        made = _within(job, data, table, splits, part(progress, 0.7, 1.0))
    nodes = {each.found.name: each.found.up.layer.node for each in table}
    for entry in made.entries:
        if entry.is_dense:
            job.ctx.refuse(PASS_NAME, nodes[entry.name], entry.reason)
    return made, splits


def _within(
    job: Job,
    data: Calibration,
    table: Sequence[Weighed],
    splits: Mapping[str, Split],
    progress: Progress,
) -> Made:
    """The largest price of time, the same for all networks, under which the model keeps to a limit.

    As of heads of attention: one price for all loses least in all for the time that it saves.
    """
    request, tried = job.request, dict[float, tuple[tuple[PlanExperts, ...], Grade]]()
    limit = request.each_drop
    assert limit is not None
    exam = set_exam(session_of_model(job.graph), data.held_out, request.quality, data.labels)

    def keeps(price: float) -> bool:
        progress("what experts lose", len(tried) / len(PRICES).bit_length())
        entries = tuple(planned(each, request.target, price) for each in table)
        tried[price] = entries, exam.grade(session_of_model(_made(job.graph, entries, splits)))
        return tried[price][1].certain <= limit

    met = bisect.bisect_left(PRICES, True, key=lambda price: not keeps(price))
    if met:
        entries, grade = tried[PRICES[met - 1]]
    else:
        entries, grade = tuple(planned(each, request.target, 0.0) for each in table), Grade(0.0)
    budget = PlanBudget(kind="drop", limit=limit, metric=exam.metric, drop=grade.drop, met=True)
    return Made(entries, budget)


def _made(graph: ir.Model, entries: Sequence[PlanExperts], splits: Mapping[str, Split]) -> ir.Model:
    copy = graph.clone()
    carry_out(copy, entries, splits)
    return copy


__all__ = ["Made", "into_experts"]
