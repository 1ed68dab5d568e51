"""Searching for a plan: candidates with times and losses, then whole models carried out.

Losses of layers add up only about. So every plan that the search asks for is carried out for good,
layer after layer, and examined on data that no layer saw: what is examined is what is delivered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.cost.model import WORTH_CHANGING
from sparsecc.errors import CalibrationError
from sparsecc.executor import Executor
from sparsecc.formats.patterns import Pattern
from sparsecc.inspection import fixed, rewrite
from sparsecc.passes.base import Context
from sparsecc.passes.regions.predict import predict_model
from sparsecc.passes.weights.candidates import (
    Candidate,
    Probe,
    measure_layers,
    offer,
    worth_keeping,
)
from sparsecc.passes.weights.layers import find_layers
from sparsecc.passes.weights.prune import LayerResult, prune_model
from sparsecc.passes.weights.sensitivity import sensitivities
from sparsecc.progress import Progress, counted, part
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.exam import Exam, Grade, Quality, set_exam
from sparsecc.search.plan import Choice, Method, PlanBudget, PlanOption, PlanPoint
from sparsecc.search.problem import Assignment, Problem
from sparsecc.search.scored import Measured
from sparsecc.search.search import SCORES, Kind, Mode, search
from sparsecc.search.why_not import explain
from sparsecc.targets import Target

UNIFORM = "4x1"
"""Pattern of the uniform plan that every search is compared with."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a plan may cost, and how it is looked for.

    Attributes:
        kind: What is limited: ``drop`` of quality, ``ms`` or ``bytes`` of the weights.
        limit: At most so much.
        mode: How thoroughly.
        method: How the masks of the plan are found.
        refit: Whether the weights that stay may change.
        seed: Of everything random.
        quality: What quality is; see :mod:`sparsecc.quality.exam`.
    """

    kind: Kind
    limit: float
    mode: Mode
    method: Method
    refit: bool
    seed: int
    quality: str | Quality | None


@dataclasses.dataclass(frozen=True)
class Found:
    """A plan, carried out.

    Attributes:
        model: The pruned model, in canonical form.
        choices: Layer name → what was done.
        results: Layer name → what became of it.
        options: Layer name → everything that was weighed.
        points: Whole-model plans that were weighed, fastest first.
        budget: What was allowed and what it came to.
        exam: What it was examined on.
        reached: What the plan takes of what is limited.
        reason: Why nothing is pruned, or "".
    """

    model: ir.Model
    choices: dict[str, Choice]
    results: dict[str, LayerResult]
    options: dict[str, tuple[PlanOption, ...]]
    points: tuple[PlanPoint, ...]
    budget: PlanBudget
    exam: Exam
    reached: float
    reason: str


@dataclasses.dataclass(frozen=True)
class _Trial:
    """An assignment carried out for good."""

    assignment: Assignment
    model: ir.Model
    results: list[LayerResult]
    grade: Grade


def find_plan(
    graph: ir.Model,
    data: Calibration,
    target: Target,
    wish: Wish,
    executor: Executor,
    progress: Progress,
    *,
    dense: ir.Model | None = None,
) -> Found:
    """Search for the best plan of a model in canonical form.

    Args:
        graph: The model; it is not changed.
        data: Calibration data with something held out.
        target: Where it runs.
        wish: What the plan may cost.
        executor: Where layers are worked on.
        progress: Told what is being done.
        dense: The model that quality is compared with, if it is another; what `graph` loses
            against it is then part of every drop.

    Raises:
        CalibrationError: Nothing is held out, or the model or the quality does not fit the data.
    """
    if not data.held_out:
        raise CalibrationError(
            "one batch of calibration data: nothing is left to judge a plan by",
            fix="pass at least two batches of samples; some hundred samples serve best",
        )
    table, probes = _candidates(graph, data, target, wish, executor, part(progress, 0.0, 0.15))
    exam = set_exam(session_of_model(graph), data.held_out, wish.quality, data.labels)
    sense = sensitivities(graph, probes, exam, part(progress, 0.15, 0.25))
    problem = _problem(table, sense, fixed(graph, target).ms)
    start = Grade(0.0)
    if dense is not None and dense is not graph:
        exam = set_exam(session_of_model(dense), data.held_out, wish.quality, data.labels)
        start = exam.grade(session_of_model(graph))
    told = part(progress, 0.25, 1.0)
    desk = _Desk(graph, table, exam, problem, data, wish, executor, told, start)
    found = search(
        desk.problem,
        desk.score,
        kind=wish.kind,
        limit=wish.limit,
        mode=wish.mode,
        seed=wish.seed,
        first=desk.uniform(),
    )
    trial, doubt = desk.trial(found.chosen.assignment), ""
    if wish.kind == "drop" and any(trial.assignment):
        saved = 1 - _whole_ms(trial.model, target) / _whole_ms(graph, target)
        if saved < 1 - WORTH_CHANGING:
            doubt = (
                f"the best plan is expected to save {max(saved, 0):.1%} of the model's time, "
                "less than such estimates are good for"
            )
            trial = desk.trial(desk.problem.dense)
    return _found(desk, trial, met=found.met, doubt=doubt)


def _candidates(
    graph: ir.Model,
    data: Calibration,
    target: Target,
    wish: Wish,
    executor: Executor,
    progress: Progress,
) -> tuple[dict[str, list[Candidate]], dict[str, Probe]]:
    """Layer name → its candidates with times and losses, in the order of the graph; and probes."""
    layers = find_layers(graph).layers
    table = {layer.name: offer(layer, target, wish.mode, wish.method) for layer in layers}
    choices = {name: [c.choice for c in cs] for name, cs in table.items() if len(cs) > 1}
    losses, probes = measure_layers(graph, choices, data, executor, progress)
    for name, measured in losses.items():
        pairs = zip(table[name], measured, strict=True)
        weighed = [dataclasses.replace(each, loss=loss) for each, loss in pairs]
        table[name] = worth_keeping(weighed)
    return table, probes


def _whole_ms(graph: ir.Model, target: Target) -> float:
    """Estimated time of one run of a model in canonical form, with what would run its layers."""
    model = graph.clone()
    rows = rewrite(model, target, Context(target=target))
    return predict_model(model, rows, target).ms


def _problem(
    table: Mapping[str, Sequence[Candidate]], sense: Mapping[str, float], fixed_ms: float
) -> Problem:
    return Problem(
        names=tuple(table),
        times=[np.array([each.ms for each in candidates]) for candidates in table.values()],
        losses=[
            np.array([each.loss * sense.get(name, 1.0) for each in candidates])
            for name, candidates in table.items()
        ],
        sizes=[np.array([each.weight_bytes for each in cs], float) for cs in table.values()],
        fixed_ms=fixed_ms,
    )


class _Desk:
    """Where whole-model plans are carried out and examined."""

    def __init__(
        self,
        graph: ir.Model,
        table: Mapping[str, Sequence[Candidate]],
        exam: Exam,
        problem: Problem,
        data: Calibration,
        wish: Wish,
        executor: Executor,
        progress: Progress,
        start: Grade,
    ) -> None:
        self.graph = graph
        self.table = table
        self.exam = exam
        self.problem = problem
        self.wish = wish
        self.grades: dict[Assignment, Grade] = {self.problem.dense: start}
        self._data = data
        self._executor = executor
        self._progress = progress
        self._kept: _Trial | None = None

    def picked(self, assignment: Assignment) -> dict[str, Candidate]:
        """Layer name → its candidate."""
        return {
            name: candidates[number]
            for (name, candidates), number in zip(self.table.items(), assignment, strict=True)
        }

    def score(self, assignment: Assignment) -> Measured:
        """What a plan comes to; the drop is one that the true one is not likely to exceed."""
        trial = self.trial(assignment)
        if self._better(trial):
            self._kept = trial
        return Measured(trial.grade.certain, trial.grade.distance)

    def trial(self, assignment: Assignment) -> _Trial:
        """A plan carried out: the best one so far, or again."""
        kept = self._kept
        return kept if kept and kept.assignment == assignment else self._carry_out(assignment)

    def uniform(self) -> list[Assignment]:
        """Plans that do the same to every layer that allows it: the one nearest to the limit."""
        pattern = Pattern.parse(UNIFORM)
        offered = [
            c
            for cs in self.table.values()
            for c in cs
            if c.choice.pattern == pattern and not c.choice.structure
        ]
        plans = [
            tuple(
                next((at for at, c in enumerate(cs) if _is(c, pattern, sparsity)), 0)
                for cs in self.table.values()
            )
            for sparsity in sorted({c.choice.sparsity for c in offered if c.changes})
        ]
        used = {"drop": self.problem.loss, "ms": self.problem.ms, "bytes": self.problem.bytes}
        return sorted(plans, key=lambda p: abs(used[self.wish.kind](p) - self.wish.limit))[:1]

    def _better(self, trial: _Trial) -> bool:
        """Whether the search may come to prefer a plan to the one that is kept."""
        if self.wish.kind != "drop":
            return self._kept is None or trial.grade.drop < self._kept.grade.drop
        best = self.problem.dense if self._kept is None else self._kept.assignment
        faster = self.problem.ms(trial.assignment) < self.problem.ms(best)
        return faster and trial.grade.certain <= self.wish.limit

    def _carry_out(self, assignment: Assignment) -> _Trial:
        """Prune a copy of the model as the assignment says, layer after layer, and examine it."""
        model = self.graph.clone()
        choices = {
            name: each.choice.model_copy(update={"refit": self.wish.refit and each.changes})
            for name, each in self.picked(assignment).items()
        }
        number, most = len(self.grades), SCORES[self.wish.mode] + 2  # the uniform one, the last
        start, end = ((number - more) / most for more in (1, 0))
        step = part(self._progress, start, min(end, 1.0), f"plan {number}")
        results = prune_model(
            model, choices, self._data, executor=self._executor, on_progress=counted(step)
        )
        step("what it loses", 1.0)
        grade = (
            self.exam.grade(session_of_model(model)) if any(assignment) else self.grades[assignment]
        )
        self.grades[assignment] = grade
        return _Trial(assignment, model, results, grade)


def _is(candidate: Candidate, pattern: Pattern, sparsity: float) -> bool:
    choice = candidate.choice
    same = choice.pattern == pattern and choice.sparsity == sparsity
    return candidate.changes and same and not choice.structure


def _found(desk: _Desk, trial: _Trial, *, met: bool, doubt: str) -> Found:
    picked = desk.picked(trial.assignment)
    dense = trial.assignment == desk.problem.dense
    return Found(
        model=trial.model,
        choices={name: each.choice for name, each in picked.items()},
        results={result.name: result for result in trial.results},
        options={name: _options(desk.table[name], picked[name]) for name in picked},
        points=_points(desk, trial),
        budget=PlanBudget(
            kind=desk.wish.kind,
            limit=desk.wish.limit,
            metric=desk.exam.metric,
            drop=trial.grade.drop,
            met=met,
        ),
        exam=desk.exam,
        reached=_reached(desk.problem, trial, desk.wish.kind),
        reason=doubt or (_why_dense(desk) if dense else ""),
    )


def _reached(problem: Problem, trial: _Trial, kind: Kind) -> float:
    if kind == "drop":
        return trial.grade.drop
    return problem.ms(trial.assignment) if kind == "ms" else problem.bytes(trial.assignment)


def _why_dense(desk: _Desk) -> str:
    if all(len(candidates) == 1 for candidates in desk.table.values()):
        return "no layer would be faster with zeros on this target"
    least = min(
        (grade.certain for plan, grade in desk.grades.items() if any(plan)), default=float("inf")
    )
    return f"every faster plan that was weighed loses {least:.2%} or more of {desk.exam.metric}"


def _points(desk: _Desk, trial: _Trial) -> tuple[PlanPoint, ...]:
    """Every plan that was carried out, with what it came to."""
    names = {desk.problem.dense: "dense"} | dict.fromkeys(desk.uniform(), f"uniform {UNIFORM}")
    points = [
        PlanPoint(
            name=names.get(assignment, f"searched {number}"),
            predicted_ms=desk.problem.ms(assignment),
            drop=grade.drop,
            chosen=assignment == trial.assignment,
        )
        for number, (assignment, grade) in enumerate(desk.grades.items())
    ]
    return tuple(sorted(points, key=lambda point: (point.predicted_ms, point.name)))


def _options(candidates: Sequence[Candidate], chosen: Candidate) -> tuple[PlanOption, ...]:
    options = [
        PlanOption(
            choice=each.choice,
            density=each.density,
            loss=each.loss,
            predicted_ms=each.ms,
            weight_bytes=each.weight_bytes,
        )
        for each in candidates
    ]
    return explain(options, options[next(i for i, c in enumerate(candidates) if c is chosen)])


__all__ = ["Found", "Wish", "find_plan"]
