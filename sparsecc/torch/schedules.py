"""When masks change while a network is trained, and to what: plain functions of the step.

A schedule is *hard* or *soft*. Under a hard one a dropped weight is zero; under a soft one it lives
on behind the mask (:mod:`sparsecc.torch.straight_through`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sparsecc.errors import PlanError
from sparsecc.formats.patterns import (
    DENSE,
    Mask,
    Pattern,
    block_sums,
    expand_blocks,
    keep_highest,
    mask_from_scores,
)

Matrix = NDArray[np.floating]

LEFT_AT_THE_END = 0.01
"""What an exponential decay has left of β where its phase ends; then it is zero."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """A layer at a step of training.

    Attributes:
        pattern: What is dropped together.
        sparsity: Share of zeros it is to end with.
        weight: Gives its weight ``[R, K]``.
        mask: Its mask; None before the first.
        gradient: Gives the gradient of the loss by all weights, dropped ones too, ``[R, K]``.
        rng: For what is random, seeded by layer and step.
    """

    pattern: Pattern
    sparsity: float
    weight: Callable[[], Matrix]
    mask: Mask | None
    gradient: Callable[[], Matrix]
    rng: np.random.Generator


class Schedule(Protocol):
    """What a :class:`~sparsecc.torch.Sparsifier` asks at every step.

    Attributes:
        end: The step from which on nothing changes (soft masks still follow their weights).
        soft: Whether dropped weights live on.
        decay: λ of SR-STE (soft schedules).
    """

    soft: ClassVar[bool]

    @property
    def end(self) -> int: ...  # noqa: D102
    @property
    def decay(self) -> float: ...  # noqa: D102

    def beta(self, step: int) -> float:
        """What is left of a dropped weight (soft schedules)."""
        ...

    def mask(self, step: int, at: Moment) -> Mask | None:
        """The new mask ``[R, K]``, or None where the old one stays. Step 0 is before training."""
        ...

    def refuses(self, pattern: Pattern) -> str:
        """Why a pattern cannot be had by this schedule, or ""."""
        ...


@dataclasses.dataclass(frozen=True)
class Gradual:
    """Gradual magnitude pruning (Zhu & Gupta 2017): s(t) = s (1 − (1 − (t − t₀) / (t₁ − t₀))³).

    Attributes:
        end: t₁, the step at which all zeros are there.
        begin: t₀, the first step with zeros.
        every: Steps between two prunings.
    """

    end: int
    begin: int = 0
    every: int = 10
    soft: ClassVar[bool] = False
    decay: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_span(self.begin, self.end, self.every)

    def sparsity(self, step: int, final: float) -> float:
        """s(t), for a final sparsity."""
        left = 1 - min(max((step - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return final * (1 - left**3)

    def beta(self, step: int) -> float:
        """Nothing is left of a dropped weight."""
        return 0.0

    def mask(self, step: int, at: Moment) -> Mask | None:
        """The largest weights stay; what was dropped is zero, and so stays dropped."""
        due = (step - self.begin) % self.every == 0 or step == self.end
        if at.mask is not None and not (due and self.begin <= step <= self.end):
            return None
        return by_size(at.weight(), at.pattern, self.sparsity(step, at.sparsity))

    def refuses(self, pattern: Pattern) -> str:
        """N:M has a sparsity of its own."""
        return _not_nm(pattern, "Progressive(decay='stepwise')")


@dataclasses.dataclass(frozen=True)
class Dynamic:
    """Dynamic sparse training: now and then drop the smallest kept blocks, and grow as many others.

    The share that changes is α/2 (1 + cos(π t / end)). The first masks keep the largest weights,
    which at a usual random start are as good as random ones, and keep more of its variance. Blocks
    that grow begin at zero.

    Attributes:
        end: The step from which on masks stay.
        every: Steps between two changes.
        fraction: α, the share of the kept blocks that the first change replaces.
        grow: ``gradient`` grows where the loss has the steepest gradient (RigL, Evci et al. 2020),
            ``random`` anywhere (SET, Mocanu et al. 2018).
    """

    end: int
    every: int = 10
    fraction: float = 0.3
    grow: Literal["gradient", "random"] = "gradient"
    soft: ClassVar[bool] = False
    decay: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_span(0, self.end, self.every)
        if not 0 < self.fraction <= 1 or self.grow not in ("gradient", "random"):
            raise PlanError(
                f"a share of {self.fraction} to replace, by {self.grow!r}",
                fix="give a fraction above 0, at most 1, and grow by 'gradient' or 'random'",
            )

    def share(self, step: int) -> float:
        """Share of the kept blocks that is replaced at a step."""
        return self.fraction / 2 * (1 + math.cos(math.pi * min(step / self.end, 1.0)))

    def beta(self, step: int) -> float:
        """Nothing is left of a dropped weight."""
        return 0.0

    def mask(self, step: int, at: Moment) -> Mask | None:
        """Drop by size, grow by gradient or at random; as many blocks as before."""
        if at.mask is None:
            return by_size(at.weight(), at.pattern, at.sparsity)
        if step % self.every or step >= self.end:
            return None
        if self.grow == "gradient":
            scores = block_sums(np.square(at.gradient()), at.pattern.block)
        else:
            scores = at.rng.random(block_sums(at.weight(), at.pattern.block).shape)
        return drop_and_grow(at.weight(), at.mask, scores, at.pattern, self.share(step))

    def refuses(self, pattern: Pattern) -> str:
        """N:M cannot grow in one group what it dropped in another."""
        return _not_nm(pattern, "Progressive or SrSte")


@dataclasses.dataclass(frozen=True)
class Progressive:
    """Straight-through training whose masked weights fade (Bambhaniya et al. 2024).

    Dense until ``begin``; then β falls from 1 to 0 until ``end``, ``linear`` or ``exponential`` in
    the steps, or the pattern tightens: ``stepwise`` halves what is kept from all to what was asked
    for, 8:8 → 4:8 → 2:8, in phases of equal length, with β = 0. From ``end`` on the masks are those
    asked for and β = 0. Masks follow the weights' sizes at every step.

    Attributes:
        begin: Steps of dense warm-up.
        end: The step at which the binary tail begins.
        decay_by: ``linear``, ``exponential`` or ``stepwise``.
    """

    begin: int
    end: int
    decay_by: Literal["linear", "exponential", "stepwise"] = "linear"
    soft: ClassVar[bool] = True
    decay: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_span(self.begin, self.end)
        if self.decay_by not in ("linear", "exponential", "stepwise"):
            raise PlanError(
                f"unknown decay {self.decay_by!r}", fix="use linear, exponential or stepwise"
            )

    def beta(self, step: int) -> float:
        """β(t)."""
        done = self._done(step)
        if self.decay_by == "stepwise" or done >= 1:
            return 0.0
        return 1 - done if self.decay_by == "linear" else LEFT_AT_THE_END**done

    def mask(self, step: int, at: Moment) -> Mask:
        """The largest weights, in the units of the pattern, or of the phase's on the way to it."""
        if self.decay_by != "stepwise":
            return by_size(at.weight(), at.pattern, at.sparsity)
        phases = tightening(at.pattern, at.sparsity)
        position = int(self._done(step) * (len(phases) - 1))
        return by_size(at.weight(), *phases[position])

    def refuses(self, pattern: Pattern) -> str:
        """Every pattern can be had."""
        return ""

    def _done(self, step: int) -> float:
        return min(max((step - self.begin) / (self.end - self.begin), 0.0), 1.0)


@dataclasses.dataclass(frozen=True)
class SrSte:
    """SR-STE (Zhou et al. 2021): masks by size from the first step, dropped weights decay.

    Attributes:
        decay: λ: λ (1 − m) ⊙ W is added to the gradient of W.
    """

    decay: float = 2e-4
    soft: ClassVar[bool] = True
    end: ClassVar[int] = 0

    def beta(self, step: int) -> float:
        """Nothing is left of a dropped weight."""
        return 0.0

    def mask(self, step: int, at: Moment) -> Mask:
        """The largest weights, in the units of the pattern."""
        return by_size(at.weight(), at.pattern, at.sparsity)

    def refuses(self, pattern: Pattern) -> str:
        """Every pattern can be had."""
        return ""


def by_size(weight: Matrix, pattern: Pattern, sparsity: float) -> Mask:
    """The mask that keeps the largest weights, or blocks of the largest sum of squares."""
    return mask_from_scores(np.square(weight), pattern, sparsity)


def drop_and_grow(
    weight: Matrix, mask: Mask, grow_by: Matrix, pattern: Pattern, share: float
) -> Mask:
    """Replace a share of the kept blocks: the smallest go, others come.

    What was dropped just now competes with the rest for coming back, and then keeps its weights,
    as in RigL's own code.

    Args:
        weight: ``[R, K]``.
        mask: ``[R, K]``, whole blocks.
        grow_by: Scores of the blocks ``[Rb, Kb]``.
        pattern: What is kept and dropped together.
        share: Share of the kept blocks that is replaced, rounded down.

    Returns:
        A mask of as many blocks.
    """
    kept = block_sums(mask.astype(np.float32), pattern.block) > 0
    count = int(np.count_nonzero(kept))
    change = min(int(share * count), kept.size - count)
    sizes = np.where(kept, block_sums(np.square(weight), pattern.block), -np.inf)
    stays = keep_highest(sizes, kept.size - count + change)
    grown = keep_highest(np.where(stays, np.inf, grow_by), kept.size - count)
    return expand_blocks(grown, pattern.block, (mask.shape[0], mask.shape[1]))


def tightening(pattern: Pattern, sparsity: float) -> list[tuple[Pattern, float]]:
    """Phases from dense to a pattern: what is kept halves, and the last is the pattern itself."""
    phases: list[tuple[Pattern, float]] = [(DENSE, 0.0)]
    if pattern.kind == "nm":
        keep = pattern.group // 2
        while keep > pattern.keep:
            phases.append((dataclasses.replace(pattern, keep=keep), 1 - keep / pattern.group))
            keep //= 2
    else:
        density = 0.5
        while density > 1 - sparsity:
            phases.append((pattern, 1 - density))
            density /= 2
    return [*phases, (pattern, sparsity)]


def _not_nm(pattern: Pattern, instead: str) -> str:
    return f"{pattern} fixes what each group keeps; use {instead}" if pattern.kind == "nm" else ""


def check_span(begin: int, end: int, every: int = 1) -> None:
    """Check the steps of a schedule.

    Raises:
        PlanError: It would not end after it begins, or act more often than every step.
    """
    if not 0 <= begin < end or every < 1:
        raise PlanError(
            f"a schedule from step {begin} to {end}, every {every} steps",
            fix="begin at step 0 or later, end after that, and act every step or less often",
        )
