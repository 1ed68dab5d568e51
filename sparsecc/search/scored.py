"""Plans that were judged end to end, each of them once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from sparsecc.progress import Progress, silent
from sparsecc.search.problem import Assignment, Problem

Score = Callable[[Assignment], float]
"""Drop of quality of a plan, measured end to end; takes seconds."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """A plan that was judged.

    Attributes:
        assignment: Number of the choice of every layer.
        ms: Predicted time of the model, in milliseconds.
        drop: Measured drop of quality against the dense model.
    """

    assignment: Assignment
    ms: float
    drop: float


class Scores:
    """Measured drops, remembered. The dense plan is known from the start: its drop is 0.

    Args:
        problem: What plans are of.
        score: Measures one; what is not a number counts as an infinite drop.
        most: How often it may be called.
        progress: Told after each call.
    """

    def __init__(
        self, problem: Problem, score: Score, most: int, progress: Progress = silent
    ) -> None:
        self._problem = problem
        self._score = score
        self._progress = progress
        self._most = most
        self._known = {problem.dense: Scored(problem.dense, problem.ms(problem.dense), 0.0)}

    @property
    def left(self) -> int:
        """Calls of ``score`` that may still be made."""
        return self._most - (len(self._known) - 1)

    @property
    def all(self) -> list[Scored]:
        """What was judged, in the order of judging, the dense plan first."""
        return list(self._known.values())

    def known(self, assignment: Assignment) -> bool:
        """Whether its drop can be had without measuring."""
        return assignment in self._known

    def of(self, assignment: Assignment) -> Scored:
        """The plan with its drop; measured only if it was not before.

        Raises:
            ValueError: It would have to be measured and no call is left.
        """
        if assignment not in self._known:
            if not self.left:
                raise ValueError(f"all {self._most} scores are used up")
            drop = float(self._score(assignment))
            found = Scored(
                assignment, self._problem.ms(assignment), math.inf if math.isnan(drop) else drop
            )
            self._known[assignment] = found
            done = self._most - self.left
            self._progress(f"plan {done} of at most {self._most}", done / self._most)
        return self._known[assignment]


__all__ = ["Score", "Scored", "Scores"]
