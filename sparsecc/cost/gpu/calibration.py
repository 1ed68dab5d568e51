"""The table of a GPU from what ``python -m benchmarks.gpu`` measured on it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import operator
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from sparsecc import targets
from sparsecc.cost.gpu.assumed import assumed_table
from sparsecc.cost.gpu.bounds import Bound, Task, bound, ms_of
from sparsecc.cost.gpu.coefficients import SPREAD, Coefficients, Family, Reached
from sparsecc.cost.table import MAX_BYTES, TABLE_FILE, Table, kernels_hash, own_path
from sparsecc.errors import CostTableError, TargetError
from sparsecc.targets import Target
from sparsecc.targets.cuda import arch_of_target

AGAIN = "run `python -m benchmarks.gpu` of this version on the GPU"
LEAST_SPREAD = 0.05
_LEAST_OWN = 0.05
"""Of a time, what is left for the programs where launches alone would take longer."""
_SIGMA_OF_MEDIAN = 1.4826
"""Standard deviation of a normal error over its median absolute value."""
_MOST_SHARE = 4.0

Ms = Annotated[float, pydantic.Field(gt=0, le=1e7, allow_inf_nan=False)]
Gbs = Annotated[float, pydantic.Field(gt=0, le=1e6, allow_inf_nan=False)]
_READ = pydantic.ConfigDict(frozen=True, extra="ignore")


class Rate(pydantic.BaseModel):
    """A rate of the GPU.

    Attributes:
        rate: Which.
        ms: Of a launch.
        gbs: Of memory or of the second-level cache; None where it could not be told.
    """

    model_config = _READ

    rate: Literal["launch", "memory", "cache"]
    ms: Ms | None = None
    gbs: Gbs | None = None


class Side(pydantic.BaseModel):
    """A side of a case: its median time."""

    model_config = _READ

    ms: Ms


class Timing(pydantic.BaseModel):
    """A case.

    Attributes:
        case: Its name.
        sides: What was timed.
        tasks: What sides launch, of those that the cost model knows.
    """

    model_config = _READ

    case: Annotated[str, pydantic.Field(max_length=300)]
    sides: dict[str, Side]
    tasks: dict[str, Task] = {}


class Checked(pydantic.BaseModel):
    """Whether a kernel was right."""

    model_config = _READ

    kernel: str
    passed: bool


class Report(pydantic.BaseModel):
    """What is read of the benchmark's file.

    Attributes:
        device: The GPU's name.
        arch: Its architecture.
        kernels: Hash of the kernels that were timed.
        rates: Of the GPU.
        checks: All that were done.
        timings: All cases.
    """

    model_config = _READ

    device: Annotated[str, pydantic.Field(max_length=200)]
    arch: Annotated[str, pydantic.Field(max_length=20)]
    kernels: Annotated[str, pydantic.Field(max_length=64)]
    rates: Annotated[list[Rate], pydantic.Field(max_length=100)]
    checks: Annotated[list[Checked], pydantic.Field(max_length=100_000)]
    timings: Annotated[list[Timing], pydantic.Field(max_length=10_000)]


def calibrate(file: Path, target: str = "") -> Path:
    """Take over what was measured on a GPU; estimates for the target use it from then on.

    Args:
        file: JSON of ``python -m benchmarks.gpu``.
        target: Name or file of the target; by default the one of the GPU's architecture.

    Returns:
        The table's file.

    Raises:
        TargetError: The target is unknown, or of another architecture.
        CostTableError: The file is none, is of other kernels, has kernels that were wrong, or the
            table cannot be written.
    """
    report = read(file)
    hardware = targets.read(target or f"cuda-{report.arch}")
    if hardware.family != "cuda" or arch_of_target(hardware) != report.arch:
        raise TargetError(
            f"{file} was measured on {report.device}, {report.arch}: {hardware.name} is another",
            fix=f"calibrate cuda-{report.arch}, or a target file whose name ends with it",
        )
    _check(report, hardware, file)
    path = own_path(hardware)
    with contextlib.suppress(OSError):  # writing says what is wrong
        path.parent.mkdir(parents=True, exist_ok=True)
    TABLE_FILE.save(table_of(report, hardware), path)
    return path


def read(file: Path) -> Report:
    """Read the benchmark's file.

    Raises:
        CostTableError: It cannot be read, or is none.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise CostTableError(f"{file} is larger than {MAX_BYTES >> 20} MiB", fix=AGAIN)
        return Report.model_validate_json(file.read_bytes())
    except OSError as error:
        raise CostTableError(f"cannot read {file}: {error.strerror}", fix=AGAIN) from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise CostTableError(f"{file}: {where}: {first['msg']}", fix=AGAIN) from error


def _check(report: Report, target: Target, file: Path) -> None:
    kernels = kernels_hash(target)
    if report.kernels != kernels:
        raise CostTableError(
            f"{file} is of other kernels: {report.kernels}, these are {kernels}", fix=AGAIN
        )
    wrong = [each.kernel for each in report.checks if not each.passed]
    if wrong:
        raise CostTableError(
            f"{file}: {len(wrong)} kernels were wrong there: {', '.join(wrong[:3])}",
            fix="report it: times of wrong kernels say nothing",
        )


def table_of(report: Report, target: Target) -> Table:
    """The table that follows from a report: rates as measured, shares as medians over cases."""
    found = {each.rate: each for each in report.rates}
    before = target.bandwidths
    near, far = (found[name].gbs if name in found else None for name in ("cache", "memory"))
    bandwidths = (*before[:-2], near or before[-2], far or before[-1])
    hardware = dataclasses.replace(target, bandwidths=bandwidths)
    assumed = assumed_table(hardware)
    launch = found["launch"].ms if "launch" in found else None
    assert assumed.gpu is not None
    known = assumed.gpu.model_copy(update={"launch_ms": launch} if launch else {})
    return assumed.model_copy(
        update={
            "target": target,
            "machine": report.device,
            "derived": False,
            "bandwidths": bandwidths,
            "gpu": fitted(samples(report), hardware, known),
        }
    )


def samples(report: Report) -> list[tuple[Task, float]]:
    """What was launched, and its time, ms."""
    return [
        (task, case.sides[name].ms)
        for case in report.timings
        for name, task in case.tasks.items()
        if name in case.sides
    ]


def fitted(measured: list[tuple[Task, float]], target: Target, known: Coefficients) -> Coefficients:
    """Shares under which the median case of each family, and of each of its bounds, is right.

    Args:
        measured: Tasks and their times, ms.
        target: The GPU, with its bandwidths as measured.
        known: The time of a launch as measured, and the shares to begin with.
    """
    reached = dict(known.reached)
    for family, before in known.reached.items():
        cases = [each for each in measured if each[0].family == family]
        if cases:
            reached[family] = _of_family(cases, family, before, target, known)
    return known.model_copy(update={"reached": reached})


def _of_family(
    cases: list[tuple[Task, float]],
    family: Family,
    before: Reached,
    target: Target,
    known: Coefficients,
) -> Reached:
    """Times over predictions, of the cases that each of the bounds is the largest of."""
    faster: dict[str, list[float]] = {name: [] for name in Bound._fields}
    for task, ms in cases:
        launches = len(task.launches) * known.launch_ms
        own = max(ms - launches, _LEAST_OWN * ms)
        predicted = ms_of(task, target, known) - launches
        faster[_bound_of(task, target, before)].append(predicted / own)
    shares = {
        name: min(_MOST_SHARE, getattr(before, name) * statistics.median(ratios))
        for name, ratios in faster.items()
        if ratios and min(ratios) > 0
    }
    made = before.model_copy(update={name: _four(share) for name, share in shares.items()})
    then = known.model_copy(update={"reached": {**known.reached, family: made}})
    errors = [abs(math.log(ms_of(task, target, then) / ms)) for task, ms in cases]
    spread = _SIGMA_OF_MEDIAN * float(np.median(errors)) if len(errors) > 2 else SPREAD / 2
    return made.model_copy(
        update={"spread": _four(min(1.0, max(LEAST_SPREAD, spread))), "cases": len(cases)}
    )


def _bound_of(task: Task, target: Target, reached: Reached) -> str:
    """What takes longer in all of its launches together."""
    each = [bound(launched, target) for launched in task.launches]
    sums = map(sum, zip(*each, strict=True))
    times = map(operator.truediv, sums, reached.shares)
    return max(zip(times, Bound._fields, strict=True))[1]


def _four(number: float) -> float:
    return float(f"{number:.4g}")


def achieved(task: Task, ms: float, target: Target) -> Mapping[str, Any]:
    """Shares of the data sheet's matrix units and memory that a task came to."""
    flops = sum(each.demand.flops / each.gain for each in task.launches)
    read = sum(each.demand.read for each in task.launches)
    return {
        "matrix_units": _four(flops / (ms * 1e9 * target.tensor_tflops)),
        "memory": _four(read / (ms * 1e6 * target.dram_gbs)),
    }
