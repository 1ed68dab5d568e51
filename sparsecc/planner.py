"""Searching for a plan: candidates with times and losses, a search, and a trial of what it finds.

Losses of layers add up only about. So the search scores whole models, pruned quickly layer after
layer, and its best plan is carried out for good and examined before it counts: where it loses too
much or has room to spare, a plan that loses less or more is carried out next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from sparsecc.backends.onnxruntime.run import session_of_model
from sparsecc.errors import CalibrationError
from sparsecc.formats.patterns import Pattern
from sparsecc.passes.weights.bias_correction import can_shift
from sparsecc.passes.weights.candidates import Candidate, measure, offer
from sparsecc.passes.weights.layers import find_layers, matrix
from sparsecc.passes.weights.prune import LayerResult, prune_model, with_statistics
from sparsecc.passes.weights.whole import quickly_pruned, stitched
from sparsecc.progress import Progress, counted, part
from sparsecc.quality.calibration import Calibration
from sparsecc.quality.exam import Exam, Grade, Quality, set_exam
from sparsecc.search.ladder import Ladder
from sparsecc.search.plan import Choice, Method, PlanBudget, PlanOption, PlanPoint
from sparsecc.search.problem import Assignment, Problem
from sparsecc.search.scored import Scored
from sparsecc.search.search import Kind, Mode, search
from sparsecc.search.why_not import explain
from sparsecc.targets import Target

SENSITIVITY_BATCHES = 2
"""Held-out batches that say how much the model minds an error of one layer."""
TRIALS: Mapping[Mode, int] = {"fast": 2, "thorough": 5}
"""Plans carried out and examined, at most; twice as many where none has kept to the limit."""
_HOPELESS = 0.2
"""A uniform plan that loses so much needs none with more zeros beside it."""
UNIFORM = "4x1"
"""Pattern of the uniform plans that every search is compared with."""


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
        reached: What the plan takes of what is limited.
        reason: Why nothing is pruned, or "".
    """

    model: ir.Model
    choices: dict[str, Choice]
    results: dict[str, LayerResult]
    options: dict[str, tuple[PlanOption, ...]]
    points: tuple[PlanPoint, ...]
    budget: PlanBudget
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
    graph: ir.Model, data: Calibration, target: Target, wish: Wish, progress: Progress
) -> Found:
    """Search for the best plan of a model in canonical form.

    Args:
        graph: The model; it is not changed.
        data: Calibration data with something held out.
        target: Where it runs.
        wish: What the plan may cost.
        progress: Told what is being done.

    Raises:
        CalibrationError: Nothing is held out, or the model or the quality does not fit the data.
    """
    if not data.held_out:
        raise CalibrationError(
            "one batch of calibration data: nothing is left to judge a plan by",
            fix="pass at least two batches of samples; some hundred samples serve best",
        )
    table = measure_candidates(graph, data, target, wish, part(progress, 0.0, 0.4))
    exam = set_exam(session_of_model(graph), data.held_out, wish.quality, data.labels)
    sense = _sensitivities(graph, data, table, part(progress, 0.4, 0.55))
    problem = _problem(table, sense)
    desk = _Desk(graph, table, exam, problem, data)
    for assignment in desk.uniform().values():
        if desk.grade(assignment).drop > _HOPELESS:
            break
    trial = _try(desk, wish, part(progress, 0.55, 1.0))
    return _found(desk, trial, wish)


def measure_candidates(
    graph: ir.Model, data: Calibration, target: Target, wish: Wish, progress: Progress
) -> dict[str, list[Candidate]]:
    """Layer name → its candidates with times and losses, in the order of the graph."""
    layers = find_layers(graph).layers
    table = {layer.name: offer(layer, target, wish.mode, wish.method) for layer in layers}
    todo = [layer for layer in layers if len(table[layer.name]) > 1]
    seen = with_statistics(graph, todo, data, counted(progress))
    for layer, train, held_out in seen:
        assert train is not None
        with threadpool_limits(1, "blas"):  # thousands of small systems, and the same last bits
            table[layer.name] = measure(
                matrix(layer), table[layer.name], train, held_out, may_shift=can_shift(layer)
            )
    return table


def _sensitivities(
    graph: ir.Model, data: Calibration, table: Mapping[str, Sequence[Candidate]], progress: Progress
) -> dict[str, float]:
    """Layer name → relative error of the model's outputs for each unit of the layer's own."""
    dense = session_of_model(graph)
    exam = set_exam(dense, data.held_out[:SENSITIVITY_BATCHES], "relative-error")
    names = [name for name, candidates in table.items() if len(candidates) > 1]
    found = dict.fromkeys(table, 1.0)
    for done, name in enumerate(names):
        progress(f"how much the model minds {name}", done / len(names))
        middle = sorted(table[name][1:], key=lambda each: each.loss)[len(table[name]) // 2 - 1]
        drop = exam.grade(session_of_model(stitched(graph, {name: middle}))).drop
        found[name] = max(drop, 1e-12) / max(middle.loss, 1e-12)
    return found


def _problem(table: Mapping[str, Sequence[Candidate]], sense: Mapping[str, float]) -> Problem:
    return Problem(
        names=tuple(table),
        times=[np.array([each.ms for each in candidates]) for candidates in table.values()],
        losses=[
            np.array([each.loss * sense[name] for each in candidates])
            for name, candidates in table.items()
        ],
        sizes=[np.array([each.weight_bytes for each in cs], float) for cs in table.values()],
    )


class _Desk:
    """Where whole-model plans are tried, carried out and graded."""

    def __init__(
        self,
        graph: ir.Model,
        table: Mapping[str, Sequence[Candidate]],
        exam: Exam,
        problem: Problem,
        data: Calibration,
    ) -> None:
        self.data = data
        self.graph = graph
        self.table = table
        self.exam = exam
        self.problem = problem
        self.grades: dict[Assignment, Grade] = {problem.dense: Grade(0.0)}
        self.carried_out: dict[Assignment, Grade] = {}

    def picked(self, assignment: Assignment) -> dict[str, Candidate]:
        """Layer name → its candidate."""
        return {
            name: candidates[number]
            for (name, candidates), number in zip(self.table.items(), assignment, strict=True)
        }

    def grade(self, assignment: Assignment) -> Grade:
        """Of the quickly pruned model, found once."""
        if assignment not in self.grades:
            model = quickly_pruned(self.graph, self.picked(assignment), self.data)
            self.grades[assignment] = self.exam.grade(session_of_model(model))
        return self.grades[assignment]

    def scored(self) -> list[Scored]:
        """Every plan that was graded, the uniform ones too."""
        return [
            Scored(assignment, self.problem.ms(assignment), grade.drop)
            for assignment, grade in self.grades.items()
        ]

    def fastest(self, limit: float) -> Assignment:
        """The fastest graded plan that is likely to keep to a drop."""
        kept = [plan for plan, grade in self.grades.items() if grade.certain <= limit]
        return min(kept, key=lambda plan: (self.problem.ms(plan), plan))

    def carry_out(self, assignment: Assignment, wish: Wish, progress: Progress) -> _Trial:
        """Prune a copy of the model as the assignment says, layer after layer."""
        model = self.graph.clone()
        choices = {
            name: each.choice.model_copy(update={"refit": wish.refit and each.weight is not None})
            for name, each in self.picked(assignment).items()
        }
        results = prune_model(
            model,
            choices,
            self.data,
            on_progress=counted(progress),
        )
        changed = assignment != self.problem.dense
        grade = self.exam.grade(session_of_model(model)) if changed else Grade(0.0)
        self.carried_out[assignment] = grade
        return _Trial(assignment, model, results, grade)

    def uniform(self) -> dict[str, Assignment]:
        """Plans that do the same to every layer that allows it, by what they do."""
        pattern = Pattern.parse(UNIFORM)
        offered = [c for cs in self.table.values() for c in cs if c.choice.pattern == pattern]
        plans = {}
        for sparsity in sorted({c.choice.sparsity for c in offered if c.weight is not None}):
            plans[f"uniform {UNIFORM}:{sparsity:g}"] = tuple(
                next((at for at, c in enumerate(cs) if _is(c, pattern, sparsity)), 0)
                for cs in self.table.values()
            )
        return plans


def _is(candidate: Candidate, pattern: Pattern, sparsity: float) -> bool:
    choice = candidate.choice
    return (
        choice.pattern == pattern and choice.sparsity == sparsity and candidate.weight is not None
    )


def _try(desk: _Desk, wish: Wish, progress: Progress) -> tuple[_Trial, bool]:
    """The best plan that was carried out, and whether it keeps to the limit."""
    found = search(
        desk.problem,
        lambda assignment: desk.grade(assignment).certain,
        kind=wish.kind,
        limit=wish.limit,
        mode=wish.mode,
        seed=wish.seed,
        progress=part(progress, 0.0, 0.3),
    )
    if wish.kind != "drop":
        assignment = found.chosen.assignment
        return desk.carry_out(assignment, wish, part(progress, 0.3, 1.0)), found.met
    ladder, best = Ladder(desk.problem, desk.scored(), wish.limit), None
    step: Assignment | None = desk.fastest(wish.limit)
    trials = TRIALS[wish.mode]
    for number in range(2 * trials):
        if step is None or not any(step) or (best and number >= trials):
            break
        share = min(0.3 + 0.7 * number / trials, 0.95)
        trial = desk.carry_out(step, wish, part(progress, share, min(1.0, share + 0.2)))
        used = trial.grade.certain / wish.limit
        if used <= 1 and (best is None or desk.problem.ms(step) < desk.problem.ms(best.assignment)):
            best = trial
        step = ladder.next(step, used)
    return best or desk.carry_out(desk.problem.dense, wish, progress), True


def _found(desk: _Desk, outcome: tuple[_Trial, bool], wish: Wish) -> Found:
    trial, met = outcome
    picked = desk.picked(trial.assignment)
    results = {result.name: result for result in trial.results}
    dense = trial.assignment == desk.problem.dense
    return Found(
        model=trial.model,
        choices={name: each.choice for name, each in picked.items()},
        results=results,
        options={name: _options(desk.table[name], picked[name]) for name in picked},
        points=_points(desk, trial),
        budget=PlanBudget(
            kind=wish.kind,
            limit=wish.limit,
            metric=desk.exam.metric,
            drop=trial.grade.drop,
            met=met,
        ),
        reached=_reached(desk.problem, trial, wish.kind),
        reason=_why_dense(desk, wish) if dense else "",
    )


def _reached(problem: Problem, trial: _Trial, kind: Kind) -> float:
    if kind == "drop":
        return trial.grade.drop
    return problem.ms(trial.assignment) if kind == "ms" else problem.bytes(trial.assignment)


def _why_dense(desk: _Desk, wish: Wish) -> str:
    if all(len(candidates) == 1 for candidates in desk.table.values()):
        return "no layer would be faster with zeros on this target"
    least = min(grade.certain for plan, grade in desk.grades.items() if any(plan))
    return f"every faster plan that was weighed loses {least:.2%} or more of {desk.exam.metric}"


def _points(desk: _Desk, trial: _Trial) -> tuple[PlanPoint, ...]:
    """All that was weighed; plans that were carried out with the drop they then came to."""
    names = {plan: name for name, plan in desk.uniform().items()} | {desk.problem.dense: "dense"}
    grades = desk.grades | desk.carried_out
    points = [
        PlanPoint(
            name=names.get(assignment, f"searched {number}"),
            predicted_ms=desk.problem.ms(assignment),
            drop=grade.drop,
            chosen=assignment == trial.assignment,
        )
        for number, (assignment, grade) in enumerate(grades.items())
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


__all__ = ["Found", "Wish", "find_plan", "measure_candidates"]
