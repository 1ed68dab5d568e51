"""Measuring a machine: peaks, every kernel on a few hundred shapes, and what is no layer."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx

from sparsecc import targets
from sparsecc.backends.kernels import peak
from sparsecc.backends.kernels.measured import chain_of, rate_cases, rows_of, step_of
from sparsecc.backends.kernels.probe import Probe
from sparsecc.backends.kernels.step_harness import Step
from sparsecc.backends.kernels.table import ISAS
from sparsecc.backends.onnxruntime.dense_probe import dense_times
from sparsecc.cost.chains import CHAINS, chains
from sparsecc.cost.correction import LEAST_SAMPLES, Correction, learn
from sparsecc.cost.families import FAMILIES, Family, base_ms
from sparsecc.cost.model import UNMEASURED_SPREAD
from sparsecc.cost.networks import NETWORKS, network
from sparsecc.cost.rates import OF_STEPS, Kind, Rate, Sums, fit_rate
from sparsecc.cost.roofline import NODE_MS
from sparsecc.cost.shapes import ALONE, SAMPLES, Row, Shape, shapes
from sparsecc.cost.table import (
    TABLE_FILE,
    Sample,
    Table,
    call_of,
    kernels_hash,
    measured_as,
    own_path,
    read_table,
    sample_of,
)
from sparsecc.errors import CostTableError, TargetError
from sparsecc.machine import cpuinfo
from sparsecc.progress import Progress, part, silent
from sparsecc.targets import Target

SHAPE_MS = 5.0
"""About how long a shape is measured."""
LEAST_RUNS, MOST_RUNS = 9, 15
WARM_RUNS, NETWORK_RUNS = 5, 60
SHARE_OF_ROWS = 0.95
"""Of a calibration's time."""
MEMORY_BYTES = 256 << 20
"""An array that no cache holds."""


def calibrate(target: str = "native", *, progress: Progress = silent) -> Path:
    """Measure this machine; estimates for the target use the result from then on.

    What was measured before an interruption is kept, and the next call goes on from there.

    Args:
        target: ``native``, a name, or the path of a target file; this machine must run it.
        progress: Told how far it is.

    Returns:
        The table's file.

    Raises:
        TargetError: The target is unknown, or this machine is not one.
        BackendError: The kernels could not be built, or scikit-learn is not installed.
        CostTableError: The table cannot be written.
    """
    hardware = measured_as(targets.read(target))
    if not targets.runs_here(hardware):
        raise TargetError(
            f"this machine does not run {hardware.name}: it cannot be measured here",
            fix="calibrate on such a machine",
        )
    path = own_path(hardware)
    partial = path.with_suffix(".partial.json")
    with contextlib.suppress(OSError):  # writing says what is wrong
        path.parent.mkdir(parents=True, exist_ok=True)
    with one_core():
        table = _begun(partial, hardware) or _peaks(hardware, part(progress, 0.0, 0.03))
        table = _measured(table, partial, part(progress, 0.03, 0.9))
        progress("learning from the measurements", 0.9)
        table = learned(table)
        TABLE_FILE.save(table, path)
        context = _measure_networks(target, part(progress, 0.9, 1.0))
    TABLE_FILE.save(table.model_copy(update={"rates": table.rates | {"context": context}}), path)
    partial.unlink()
    progress("done", 1.0)
    return path


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on the core it is on, where the system lets it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def processor() -> str:
    """The name of this machine's processor."""
    name = cpuinfo("model name") or platform.machine()
    return f"{name}, {os.cpu_count()} cores"[:200]


def _begun(partial: Path, target: Target) -> Table | None:
    """What an interrupted calibration of this machine left."""
    if not partial.exists():
        return None
    try:
        table = read_table(partial, target)
    except CostTableError:
        return None
    return table if table.machine == processor() else None


def _peaks(target: Target, progress: Progress) -> Table:
    probe = peak.Probe(ISAS[target.isas[-1]])
    progress("peak of multiply-adds", 0.0)
    gflops = probe.gflops()
    sizes = [size // 2 for size in target.caches] + [max(MEMORY_BYTES, 4 * target.llc_bytes)]
    found = []
    for at, size in enumerate(sizes):
        progress(f"bandwidth of {size >> 10} KiB", (at + 1) / (len(sizes) + 1))
        found.append(round(probe.gbs(size), 1))
    return Table(
        target=target,
        kernels=kernels_hash(target),
        machine=processor(),
        peak_gflops=round(gflops, 1),
        bandwidths=tuple(found),
    )


def _measured(table: Table, partial: Path, progress: Progress) -> Table:
    """The table with the rows it lacks, written whenever there is one more."""
    target = table.target
    bench = Bench(target)
    rows = rows_of(target)
    of_family = Counter(row.family for row in rows)
    for at, row in enumerate(rows):
        if row.name in table.rows:
            continue
        begin, end = (SHARE_OF_ROWS * n / len(rows) for n in (at, at + 1))
        told = part(progress, begin, end, row.name)
        count = SAMPLES * (ALONE if of_family[row.family] == 1 else 1)
        found = measure_row(row, shapes(row, target, count), bench, told)
        table = table.model_copy(update={"rows": table.rows | {row.name: found}})
        TABLE_FILE.save(table, partial)
    told = part(progress, SHARE_OF_ROWS, 1.0)
    return table.model_copy(update={"rates": measure_rates(bench, told)})


class Bench:
    """What shapes of a target are measured with."""

    def __init__(self, target: Target) -> None:
        near = target.caches[-2] if len(target.caches) > 1 else target.llc_bytes // 4
        self.target = target
        far = target.llc_bytes * 3 // 4
        self.probe = Probe(target.isas[-1], target.triple, min(4 * near, far), far)

    def ms(self, shape: Shape, seed: int) -> float:
        """Median time of a shape: in a region, or as a node of ONNX Runtime, ms."""
        estimate = base_ms(shape.call, self.target)
        runs = int(np.clip(SHAPE_MS / estimate, LEAST_RUNS, MOST_RUNS))
        if shape.call.is_dense:
            return float(np.median(dense_times(shape, runs, self.probe.chill))) + NODE_MS
        return self.step_ms(step_of(shape, self.target, seed), runs)

    def step_ms(self, step: Step, runs: int = MOST_RUNS) -> float:
        """Median time of a step, ms."""
        return float(np.median(self.probe.times(step, runs)))


def measure_row(
    row: Row, which: Sequence[Shape], bench: Bench, progress: Progress = silent
) -> tuple[Sample, ...]:
    """Measured shapes of a row."""
    found = []
    for seed, shape in enumerate(which):
        progress(f"{seed + 1} of {len(which)} shapes", seed / len(which))
        found.append(sample_of(shape.call, bench.ms(shape, seed)))
    return tuple(found)


def measure_rates(bench: Bench, progress: Progress = silent) -> dict[Kind, Rate]:
    """Rates of everything that is no layer."""
    found: dict[Kind, Rate] = {}
    for kind in OF_STEPS:
        progress(kind, 0.0)
        cases = rate_cases(kind)
        times = [bench.step_ms(case.step) for case in cases]
        found[kind] = fit_rate([case.sums for case in cases], times)
    return found | {"streamed": _measure_chains(bench, progress)}


def _measure_chains(bench: Bench, progress: Progress) -> Rate:
    """What chains save, by errors relative to their time."""
    which = chains(CHAINS)
    saved, took = [], []
    for seed, chain in enumerate(which):
        progress(f"{seed + 1} of {len(which)} chains", seed / len(which))
        one_by_one = sum(bench.ms(stage, seed) for stage in chain.stages)
        took.append(bench.step_ms(chain_of(chain.stages, bench.target, seed)))
        saved.append(one_by_one - took[-1])
    return fit_rate([chain.streamed for chain in which], saved, took)


def _measure_networks(target: str, progress: Progress) -> Rate:
    """What models take besides their parts, as the table that is in use now tells these."""
    missing, took, counted = [], [], []
    for seed in range(NETWORKS):
        progress(f"{seed + 1} of {NETWORKS} networks", seed / NETWORKS)
        parts, sums, ms = measured_network(network(seed), target)
        missing.append(ms - parts)
        took.append(ms)
        counted.append(sums)
    return fit_rate(counted, missing, took)


def measured_network(model: onnx.ModelProto, target: str) -> tuple[float, Sums, float]:
    """What a network's parts take by the table in use; what counts besides; what it took, ms."""
    from sparsecc.backends.onnxruntime.run import open_session
    from sparsecc.driver import compile
    from sparsecc.inspection import predicted
    from sparsecc.manifest import MODEL_NAME

    parts, sums = predicted(model, target)
    made = compile(model, target)
    with tempfile.TemporaryDirectory(prefix="sparsecc-network-") as folder:
        made.save(folder)
        library = made.manifest.library
        own = None if library is None else Path(folder) / library
        session = open_session(Path(folder) / MODEL_NAME, library=own, threads=1)
        sizes = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
        feeds = {"x": np.random.default_rng(0).standard_normal(sizes).astype(np.float32)}
        times = []
        for _ in range(WARM_RUNS + NETWORK_RUNS):
            start = time.perf_counter()
            session.run(None, feeds)
            times.append((time.perf_counter() - start) * 1e3)
    return parts.ms, sums, float(np.median(times[WARM_RUNS:]))


def learned(table: Table) -> Table:
    """The table with what follows from its rows."""
    family_of_row = {row.name: row.family for row in rows_of(table.target)}
    corrections: dict[Family, Correction] = {}
    for family in FAMILIES:
        samples = [
            call_of(sample)
            for name, row in table.rows.items()
            if family_of_row.get(name) == family
            for sample in row
        ]
        if len(samples) >= LEAST_SAMPLES:
            calls, ms = zip(*samples, strict=True)
            corrections[family] = learn(calls, ms, table.hardware)
    return table.model_copy(update={"corrections": corrections})


def derived(target: Target, like: Table) -> Table:
    """A table of a target that cannot be timed: the roofline, and rates scaled from another's.

    Args:
        target: The target.
        like: A table that was measured.
    """
    per_element = like.hardware.lanes * like.hardware.ghz / (target.lanes * target.ghz)
    per_mac = like.peak_gflops / target.peak_gflops
    rates = {
        kind: Rate(
            call_ms=rate.call_ms * like.hardware.ghz / target.ghz,
            element_ns=rate.element_ns * per_element,
            mac_ns=rate.mac_ns * per_mac,
            spread=UNMEASURED_SPREAD,
        )
        for kind, rate in like.rates.items()
    }
    return Table(
        target=target,
        kernels=kernels_hash(target),
        machine="",
        derived=True,
        peak_gflops=target.peak_gflops,
        bandwidths=target.bandwidths,
        rates=rates,
    )
