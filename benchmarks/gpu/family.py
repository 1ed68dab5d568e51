"""What a family of kernels shows the benchmark: checks, cases that are timed, other launches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.gpu.timing import DEVICE, Run
from sparsecc.backends.cuda.kernel import Arch
from sparsecc.cost.gpu.bounds import Task
from sparsecc.errors import first_line

BOUNDS = {"float16": 2e-3, "bfloat16": 1.6e-2}
"""Of errors, relative to the largest value: twice the step of a number near one."""


@dataclass(frozen=True)
class Check:
    """A kernel on fresh random inputs, its outputs filled with NaN before.

    Attributes:
        error: Largest difference from float64, over its largest value.
        bound: What rounding explains.
    """

    error: float
    bound: float


@dataclass(frozen=True)
class Case:
    """Functions that compute the same, or its dense form, timed in turns.

    Attributes:
        name: Of the case.
        baselines: Names of sides that are dense; others are compared with the fastest of them.
        sides: By name.
        failed: Sides that could not be made, and why.
        errors: Largest differences of sparse sides from a peer over the same blocks, relative.
        share: Of the arithmetic of the dense form that is done, in whole tiles.
        tasks: What sides launch, as the cost model has it, to calibrate it by.
    """

    name: str
    baselines: tuple[str, ...]
    sides: dict[str, Run]
    failed: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    share: float = 1.0
    tasks: Mapping[str, Task] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """Kernels of one module of ``backends/cuda/kernels``.

    Attributes:
        checks: Names of checks on the GPU, and how each is done.
        cases: Makes what is timed, one after the other, since they need memory.
        others: Other launches of a row that might be faster, as functions to time.
    """

    checks: Callable[[Arch], Iterator[tuple[str, Callable[[], Check]]]]
    cases: Callable[[Arch], Iterator[Case]]
    others: Callable[[Arch], Iterator[tuple[str, Callable[[], Run]]]]


def answers_of(sides: Mapping[str, Run]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What sides compute; and those that do not run, and why: a missing backend stops nobody."""
    answers, failed = {}, {}
    for name, side in sides.items():
        try:
            answer = side()
            torch.randn(1, device=DEVICE).item()  # waits until it is done
        except Exception as error:  # whatever a peer raises
            failed[name] = first_line(error)
        else:
            if isinstance(answer, Tensor):
                answers[name] = answer
            elif isinstance(answer, tuple):
                answers[name] = torch.cat([each.flatten() for each in answer])
    return answers, failed


def error_of(made: Tensor, wanted: Tensor) -> float:
    """Largest difference, over the largest value that is wanted; infinite for what is no number."""
    error = (made.double() - wanted.double()).abs().max() / wanted.double().abs().max()
    return float(error.nan_to_num(math.inf))
