"""Checks and times GPU kernels on a GPU: `python -m benchmarks.gpu --output out/gpu.json`.

What the GPU can do at best is timed, kernels are checked against float64, then cases are timed
beside torch, then other launches are tried, as long as there is time. What is done is written after
every step. `sparsecc calibrate --measured out/gpu.json` makes estimates of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.gpu.attention import ATTENTION
from benchmarks.gpu.attention_backward import ATTENTION_BACKWARD
from benchmarks.gpu.attention_search import ATTENTION_SEARCH
from benchmarks.gpu.experts import EXPERTS
from benchmarks.gpu.family import Case, Family
from benchmarks.gpu.rates import rates
from benchmarks.gpu.timing import in_turns
from benchmarks.gpu.weights import WEIGHTS
from benchmarks.rows import figures, keep
from sparsecc import targets
from sparsecc.backends.cuda.kernel import Arch
from sparsecc.backends.cuda.launch import arch_of
from sparsecc.backends.cuda.load import load
from sparsecc.cost.gpu.calibration import achieved
from sparsecc.cost.table import kernels_hash
from sparsecc.errors import TargetError, first_line
from sparsecc.targets import Target

FAMILIES: dict[str, Family] = {
    "attention": ATTENTION,
    "attention_backward": ATTENTION_BACKWARD,
    "attention_search": ATTENTION_SEARCH,
    "weights": WEIGHTS,
    "experts": EXPERTS,
}
"""What is checked and timed, in this order."""
_CASE_S = 4.0
_OTHER_S = 0.5


def target_of(arch: Arch) -> Target:
    """The target of an architecture.

    Raises:
        TargetError: There are no kernels for it.
    """
    return targets.get(f"cuda-{arch}")


def checks(arch: Arch) -> Iterator[dict[str, Any]]:
    """Every check of every family."""
    for family in FAMILIES.values():
        for name, check in family.checks(arch):
            try:
                made = check()
                passed = made.error <= made.bound
                said = {"error": made.error, "bound": made.bound, "passed": passed}
            except Exception as error:  # the others are still worth knowing
                said = {"passed": False, "failed": first_line(error)}
            yield {"kernel": name, **said}


def timed(case: Case, target: Target) -> dict[str, Any]:
    """Figures of every side of a case, beside the fastest dense one."""
    turns = in_turns(case.sides, _CASE_S)
    dense = [name for name in case.baselines if name in turns] or list(turns)
    fastest = min(dense, key=lambda name: float(np.median(turns[name])))
    sides = {name: figures(each, turns[fastest]) for name, each in turns.items()}
    tasks = {name: task for name, task in case.tasks.items() if name in sides}
    return {
        "case": case.name,
        "share": case.share,
        "baseline": fastest,
        "sides": sides,
        "tasks": {name: asdict(task) for name, task in tasks.items()},
        "reached": {
            name: achieved(task, sides[name]["ms"], target) for name, task in tasks.items()
        },
        "failed": case.failed,
        "errors": case.errors,
    }


def timings(arch: Arch) -> Iterator[dict[str, Any]]:
    """Every case of every family."""
    for family in FAMILIES.values():
        for case in family.cases(arch):
            yield timed(case, target_of(arch))


def others(arch: Arch) -> Iterator[dict[str, Any]]:
    """Other launches of the rows."""
    for family_name, family in FAMILIES.items():
        for name, make in family.others(arch):
            try:
                times = in_turns({name: make()}, _OTHER_S)[name]
                said: dict[str, Any] = {"ms": float(np.median(times))}
            except Exception as error:  # too much shared memory, most often
                said = {"failed": first_line(error)}
            yield {"family": family_name, "launch": name, **said}


STEPS: dict[str, Callable[[Arch], Iterator[dict[str, Any]]]] = {
    "rates": rates,
    "checks": checks,
    "timings": timings,
    "others": others,
}


def measure(minutes: float, output: Path) -> bool:
    """All of it, as far as the time goes; whether every check passed."""
    start = time.monotonic()
    device = torch.device("cuda")
    arch = arch_of(device)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device),
        "arch": arch,
        "kernels": kernels_hash(target_of(arch)),
        "versions": {
            "torch": torch.__version__,
            "triton": load().__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        },
        "stopped": {},
        **{step: [] for step in STEPS},
    }
    for step, run in STEPS.items():
        try:
            for row in run(arch):
                report[step].append(row)
                report["seconds"] = round(time.monotonic() - start, 1)
                print(step, row, flush=True)
                keep(output, report)
                if report["seconds"] > 60 * minutes:
                    raise TimeoutError(f"{minutes} minutes are over")
        except Exception as error:  # what was measured before is kept, and the next step is tried
            report["stopped"][step] = first_line(error)
    keep(output, report)
    return all(each["passed"] for each in report["checks"])


Output = Annotated[Path, typer.Option(help="JSON of all that was measured.")]
Minutes = Annotated[float, typer.Option(min=0.1, help="When to stop.")]


def main(output: Output = Path("out/gpu.json"), minutes: Minutes = 7.0) -> None:
    """Check and time GPU kernels on the GPU of this machine."""
    if not torch.cuda.is_available():
        typer.echo("no GPU here: nothing was measured")
        raise typer.Exit(2)
    try:
        passed = measure(minutes, output)
    except TargetError as error:
        typer.echo(str(error))
        raise typer.Exit(2) from error
    if not passed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
