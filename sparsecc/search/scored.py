"""Plans that were judged end to end, each of them once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from sparsecc.progress import Progress, silent
from sparsecc.search.problem import Assignment, Problem


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a plan came to, measured end to end.

    Attributes:
        drop: Of quality, against the dense model.
        distance: How far the outputs are from the dense model's: 0 for the dense model itself, and
            about the sum of what the layers do. It says what the layers cost where the drop is
            mostly chance.
    """

    drop: float
    distance: float


Score = Callable[[Assignment], Measured | float]
"""Measures a plan; takes seconds. A drop alone stands for the distance too."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """A plan that was judged.

    Attributes:
        assignment: Number of the choice of every layer.
        ms: Predicted time of the model, in milliseconds.
        drop: Measured drop of quality against the dense model.
        distance: Measured distance from the dense model.
    """

    assignment: Assignment
    ms: float
    drop: float
    distance: float


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
        self._known = {problem.dense: Scored(problem.dense, problem.ms(problem.dense), 0.0, 0.0)}

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
            came_to = self._score(assignment)
            if not isinstance(came_to, Measured):
                came_to = Measured(came_to, came_to)
            drop, distance = (
                math.inf if math.isnan(each) else float(each)
                for each in (came_to.drop, came_to.distance)
            )
            ms = self._problem.ms(assignment)
            self._known[assignment] = Scored(assignment, ms, drop, distance)
            done = self._most - self.left
            self._progress(f"plan {done} of at most {self._most}", done / self._most)
        return self._known[assignment]


__all__ = ["Measured", "Score", "Scored", "Scores"]
