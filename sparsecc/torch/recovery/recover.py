"""Recovery of a pruned model: its dense model teaches it, on inputs alone.

First every stretch between two cuts learns by itself to turn the teacher's values into the
teacher's next values; then the whole learns the teacher's outputs and the values at its cuts.
Zeros of pruned weights stay zero. What counts in the end is held-out data: the weights that did
best on them are kept, those of the start among them. Where an examination is worse than at the
start, steps are too large for this model: it goes back to the best weights and on with smaller
ones.

Source: block-wise and end-to-end distillation as in Frantar and Alistarh 2022 (OBC's post
processing), Kurtic et al. 2023 (relative hidden-state loss of SquareHead); the step of a tensor is
proportional to the size of its values, as in You et al. 2017 (LARS) and Shazeer and Stern 2018.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from sparsecc.identity import model_hash
from sparsecc.progress import Progress, silent
from sparsecc.quality.calibration import Calibration, count_samples
from sparsecc.quality.effort import Effort
from sparsecc.torch.recovery.checkpoint import State, identity_of, load, save
from sparsecc.torch.recovery.course import Course
from sparsecc.torch.recovery.losses import Loss

STEP_SAMPLES = 32
"""Samples that one step of the optimiser sees, at least."""
BLOCKWISE = 0.2
"""Share of the steps in which the stretches between cuts learn by themselves."""
WARM_UP = 20
"""Steps over which the step size rises; the last of them tell how many there is time for."""
EXAMS = 10
CALMER = 0.3
"""Factor on the step size after a divergence, or where steps turn out too large."""
MOST_DIVERGENCES = 3


@dataclasses.dataclass(frozen=True)
class Recovered:
    """How a recovery went.

    Attributes:
        steps: Steps taken.
        best: The step whose weights were kept, 0 for those of the start.
        before: Held-out loss of the pruned model.
        after: Held-out loss of the weights that were kept.
        history: (step, held-out loss) of every examination.
        reason: What went wrong or was in vain, or "".
    """

    steps: int
    best: int
    before: float
    after: float
    history: tuple[tuple[int, float], ...]
    reason: str = ""


def recover(
    dense: ir.Model,
    pruned: ir.Model,
    data: Calibration,
    effort: Effort,
    *,
    loss: Loss | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> Recovered:
    """Train the weights of a pruned model in place, its zeros kept.

    Args:
        dense: The teacher.
        pruned: A changed copy of it.
        data: Inputs; the held-out batches judge.
        effort: How long.
        loss: What is learnt instead of the outputs of the teacher.
        seed: Of the order of the samples.
        checkpoint: A .safetensors file to go on from, if it is there, and to write to.
        progress: Told what is being done.

    Raises:
        CalibrationError: The checkpoint is not of this recovery.
        ModelError: The models cannot be interpreted, or have no floating-point output.
        UnsupportedOpError: A node that the interpreter does not know.
    """
    course = Course(dense, pruned, data, loss)
    identity = identity_of([model_hash(dense), model_hash(pruned), data.digest, str(effort), seed])
    run = _Run(course, data, effort, seed, identity, checkpoint, progress)
    done = run.to_the_end()
    if done.best:
        course.student.write_back(pruned)
    return done


class _Run:
    """The steps of a course, with examinations and checkpoints between them."""

    def __init__(
        self,
        course: Course,
        data: Calibration,
        effort: Effort,
        seed: int,
        identity: str,
        checkpoint: Path | None,
        progress: Progress,
    ) -> None:
        self.course = course
        self.effort = effort
        self.identity = identity
        self.checkpoint = checkpoint
        self.progress = progress
        self.lessons = _lessons([count_samples(feed) for feed in data.train], seed)
        self.start = time.monotonic()
        self.step, self.steps, self.pace = 0, effort.steps or 0, 1.0
        self.divergences = 0
        self.history: list[tuple[int, float]] = []
        self.best = course.weights_now()
        found = load(checkpoint, identity) if checkpoint is not None else None
        if found is not None:
            self._go_on(found)

    def to_the_end(self) -> Recovered:
        """Take every step, and leave the best weights in place."""
        if not self.history:
            self._examine()
        paces: list[float] = []
        while (self.step < self.steps or not self.steps) and self.divergences < MOST_DIVERGENCES:
            began = time.monotonic()
            self._take_step()
            paces.append(time.monotonic() - began)
            if not self.steps and self.step == WARM_UP:
                self.steps = self._affordable(float(np.median(paces[WARM_UP // 2 :])))
            if self.steps and (self.step % -(-self.steps // EXAMS) == 0 or self.step == self.steps):
                self._examine()
                self._save()
        self.course.put(self.best)
        at, after = min(self.history, key=lambda each: each[1])
        return Recovered(
            steps=self.step,
            best=at,
            before=self.history[0][1],
            after=after,
            history=tuple(self.history),
            reason=self._reason(at),
        )

    def _take_step(self) -> None:
        lesson = next(self.lessons)
        turn = self._turn()
        if self.step == turn:
            self.course.forget()  # gradients are of another size from here on
        factor = self.pace * schedule(self.step, self.steps, turn)
        loss = self.course.learn(lesson, factor, blockwise=self.step < turn)
        self.step += 1
        self.progress(self._told(loss), self._share())
        if not math.isfinite(loss):
            self._diverged()

    def _turn(self) -> int:
        """The step from which on the whole learns; not before the steps in all are known."""
        if not self.course.cuts:
            return 0
        known = 0 if self.effort.steps is not None else WARM_UP
        return max(known, round(BLOCKWISE * self.steps))

    def _examine(self) -> None:
        loss = self.course.examine()
        if not math.isfinite(loss) and self.history:
            self._diverged()
            return
        if not self.history or loss < min(each for _, each in self.history):
            self.best = self.course.weights_now()
        worse_than_nothing = bool(self.history) and loss > self.history[0][1]
        self.history.append((self.step, loss))
        if worse_than_nothing:
            self._calm_down()

    def _diverged(self) -> None:
        self.divergences += 1
        self._calm_down()

    def _calm_down(self) -> None:
        """Back to the best weights, with smaller steps from here on."""
        self.pace *= CALMER
        self.course.put(self.best)
        self.course.forget()

    def _affordable(self, seconds_per_step: float) -> int:
        """Steps in all that there is time for; examinations take their part."""
        assert self.effort.seconds is not None
        exam = time.monotonic()
        self._examine()
        exam = time.monotonic() - exam
        left = self.effort.seconds - (time.monotonic() - self.start) - exam * EXAMS
        return self.step + max(0, int(left / max(seconds_per_step, 1e-6)))

    def _share(self) -> float:
        if self.steps:
            return self.step / self.steps
        assert self.effort.seconds is not None
        return min(1.0, (time.monotonic() - self.start) / self.effort.seconds)

    def _told(self, loss: float) -> str:
        of = f" of {self.steps}" if self.steps else ""
        held_out = min((each for _, each in self.history), default=math.nan)
        return f"recovery, step {self.step}{of}: loss {loss:.4f}, best held out {held_out:.4f}"

    def _reason(self, best: int) -> str:
        said = []
        if self.divergences:
            said.append(
                f"diverged {self.divergences} times, went back to the best weights each time"
            )
        if not best:
            said.append("no step did better on held-out data than the start, whose weights stay")
        return "; ".join(said)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        tensors = self.course.state()
        tensors |= {f"best/{name}": each for name, each in self.best.items()}
        numbers = (self.identity, self.step, self.steps, self.pace, self.divergences)
        save(self.checkpoint, State(*numbers, tuple(self.history), tensors))

    def _go_on(self, state: State) -> None:
        self.step, self.steps, self.pace = state.step, state.steps, state.pace
        self.divergences, self.history = state.divergences, list(state.history)
        self.best = {name: state.tensors[f"best/{name}"] for name in self.course.trained}
        self.course.put_state(state.tensors)
        for _ in range(self.step):
            next(self.lessons)


def schedule(step: int, steps: int, turn: int) -> float:
    """Factor on the step size: it falls along a cosine to 0, and rises from 0 at both starts.

    Args:
        step: Which step.
        steps: In all, or 0 where that is not known yet.
        turn: The step at which the whole begins to learn.
    """
    start = turn if step >= turn else 0
    rise = min(1.0, (step - start + 1) / WARM_UP)
    return rise * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1))) if steps else rise


def _lessons(sizes: Sequence[int], seed: int) -> Iterator[list[int]]:
    """For each step, the numbers of its batches: each epoch in an order of its own, without end."""
    lesson: list[int] = []
    for epoch in itertools.count():
        for number in np.random.default_rng((seed, epoch)).permutation(len(sizes)).tolist():
            lesson.append(number)
            if sum(sizes[each] for each in lesson) >= STEP_SAMPLES:
                yield lesson
                lesson = []
