"""Least times of a launch on a GPU: by what its programs compute, and by what it moves.

A program is what CUDA calls a block of threads. Tiles per wave are multiprocessors times the
programs that one of them holds at a time, which its registers, shared memory and warps allow.
"""

from __future__ import annotations

import math
import operator
from typing import Annotated, NamedTuple

import pydantic
from pydantic.dataclasses import dataclass

from sparsecc.cost.gpu.coefficients import Coefficients, Family
from sparsecc.errors import TargetError
from sparsecc.targets import Target
from sparsecc.targets.cuda import MULTIPROCESSORS, Multiprocessor, arch_of_target

_STRICT = pydantic.ConfigDict(strict=True, extra="forbid")
Amount = Annotated[float, pydantic.Field(ge=0, le=1e24, allow_inf_nan=False)]
WARP = 32
BUSY_WARPS = 8
"""Resident warps from which on a multiprocessor's units have work: two for each scheduler, one
that computes while the other waits. First principles, not measured."""
LATENCY_S, NEAR_LATENCY_S = 600e-9, 300e-9
"""Of a read from memory and from the second-level cache: about what is published for both
architectures. What is under way has to cover it (Little's law), so that few programs do not reach
the bandwidth."""
LOADED_BYTES = 32
"""That a thread has under way where no shared memory is filled: two loads of 16 bytes."""


@dataclass(frozen=True, config=_STRICT)
class Demand:
    """What all programs of a launch do together.

    Attributes:
        programs: How many there are.
        flops: Floating-point operations on matrix units, in whole tiles; those that 2:4 skips do
            not count.
        read: Bytes that memory reads or writes.
        again: Bytes that are read again, by other programs, from the second-level cache.
        issued: Instructions of warps besides those of matrix units.
        exponentials: Numbers that are exponentiated.
        lines: Lines of 128 bytes that are looked up in first-level caches: gathered inputs.
        longest: What the longest program does over the mean.
    """

    programs: Annotated[int, pydantic.Field(ge=0, lt=2**48)]
    flops: Amount = 0.0
    read: Amount = 0.0
    again: Amount = 0.0
    issued: Amount = 0.0
    exponentials: Amount = 0.0
    lines: Amount = 0.0
    longest: Annotated[float, pydantic.Field(ge=1, le=1e9, allow_inf_nan=False)] = 1.0


@dataclass(frozen=True, config=_STRICT)
class Resources:
    """What a program of a launch takes of a multiprocessor.

    Attributes:
        warps: Of a program.
        stages: Turns of a loop that are in flight.
        registers: Of a thread.
        shared: Bytes of shared memory.
    """

    warps: Annotated[int, pydantic.Field(ge=1, le=32)]
    stages: Annotated[int, pydantic.Field(ge=1, le=32)]
    registers: Annotated[int, pydantic.Field(ge=1, le=255)]
    shared: Annotated[int, pydantic.Field(ge=0, lt=2**24)]


@dataclass(frozen=True, config=_STRICT)
class Launched:
    """A launch.

    Attributes:
        demand: What its programs do together.
        how: What each takes.
        gain: Speed of its matrix instructions over dense ones.
    """

    demand: Demand
    how: Resources
    gain: Annotated[float, pydantic.Field(ge=1, le=8)] = 1.0


@dataclass(frozen=True, config=_STRICT)
class Task:
    """What computes an operator: launches, one after the other.

    Attributes:
        family: Of the kernel that does the most.
        launches: In order.
    """

    family: Family
    launches: Annotated[tuple[Launched, ...], pydantic.Field(max_length=64)]


class Bound(NamedTuple):
    """The least times of one launch or more, ms, where units reach what data sheets say.

    Attributes:
        matrix: By matrix units, over the waves.
        issue: By instructions, exponentials and look-ups, over the waves.
        memory: By the bandwidths of memory and of the second-level cache.
    """

    matrix: float
    issue: float
    memory: float


def resident(how: Resources, sm: Multiprocessor) -> int:
    """Programs of a launch that one multiprocessor holds at a time.

    Raises:
        TargetError: Not one.
    """
    of_warp = math.ceil(how.registers * WARP / sm.register_unit) * sm.register_unit
    warps = (
        sm.registers // sm.schedulers // of_warp * sm.schedulers
    )  # each has registers of its own
    shared = math.ceil((how.shared + sm.shared_kept) / sm.shared_unit) * sm.shared_unit
    found = min(
        min(warps, sm.warps) // how.warps,
        sm.shared // shared,
        sm.programs,
    )
    if not found:
        raise TargetError(
            f"a program of {how.warps} warps with {how.registers} registers a thread and "
            f"{how.shared} bytes of shared memory does not fit a multiprocessor",
            fix="use smaller tiles, fewer warps or fewer stages",
        )
    return found


def busy(programs: int, warps: int) -> float:
    """Share of a multiprocessor's speed that so many resident programs reach."""
    return min(1.0, programs * warps / BUSY_WARPS)


def waves(programs: int, held: int, warps: int, count: int, longest: float = 1.0) -> float:
    """Time of all programs over what it would be if all units were busy to the end.

    Equal programs come in whole waves; the last may leave multiprocessors with fewer of them, or
    idle. Unequal ones start longest first: then the time is that of the sum, or of the longest.

    Args:
        programs: How many there are.
        held: As :func:`resident` says.
        warps: Of a program.
        count: Multiprocessors of the GPU.
        longest: Of the programs, over the mean.
    """
    even = programs / count
    if longest > 1.0:
        together = min(held, math.ceil(even))
        return max(1 / busy(together, warps), longest / even / busy(1, warps))
    full, left = divmod(programs, count * held)
    turns = full * held / busy(held, warps)
    if left:
        last = math.ceil(left / count)
        turns += last / busy(last, warps)
    return turns / even


def bound(launched: Launched, target: Target) -> Bound:
    """The least times of a launch.

    Raises:
        TargetError: A program does not fit, or the architecture is not known.
    """
    demand, how = launched.demand, launched.how
    if not demand.programs:
        return Bound(0.0, 0.0, 0.0)
    sm, count = MULTIPROCESSORS[arch_of_target(target)], target.threads
    held = resident(how, sm)
    clocks = target.ghz * 1e9 * count  # of all multiprocessors
    over = 1e3 * waves(demand.programs, held, how.warps, count, demand.longest)
    issue = max(
        demand.issued / (sm.schedulers * clocks),
        demand.exponentials / (sm.exponentials * clocks),
        demand.lines / (sm.lines * clocks),
    )
    at_once = min(demand.programs, held * count)
    under_way = at_once * max(how.shared, how.stages * how.warps * WARP * LOADED_BYTES)
    near, far = (each * 1e9 for each in target.bandwidths[-2:])
    memory = max(
        demand.read / min(far, under_way / LATENCY_S),
        (demand.read + demand.again) / min(near, under_way / NEAR_LATENCY_S),
    )
    matrix = demand.flops / (target.tensor_tflops * 1e12 * launched.gain)
    return Bound(over * matrix, over * issue, 1e3 * memory)


def ms_of(task: Task, target: Target, known: Coefficients) -> float:
    """The time of a task, ms: of its launches, and the slowest of what bounds each.

    Raises:
        TargetError: As :func:`bound`.
    """
    shares = known.reached[task.family].shares
    each = (bound(launched, target) for launched in task.launches)
    return sum((known.launch_ms + max(map(operator.truediv, least, shares)) for least in each), 0.0)
