"""What a family of kernels shows the benchmark: checks, cases that are timed, other launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks.gpu.timing import Run
from sparsecc.backends.cuda.kernel import Arch, Kernel


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
    """

    name: str
    baselines: tuple[str, ...]
    sides: dict[str, Run]
    failed: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    share: float = 1.0


@dataclass(frozen=True)
class Family:
    """Kernels of one module of ``backends/cuda/kernels``.

    Attributes:
        check: Checks a row of the table on the GPU.
        cases: Makes what is timed, one after the other, since they need memory.
        others: Other launches of a row that might be faster, as functions to time.
    """

    check: Callable[[Kernel, Arch], Check]
    cases: Callable[[Arch], Iterator[Case]]
    others: Callable[[Arch], Iterator[tuple[str, Callable[[], Run]]]]
