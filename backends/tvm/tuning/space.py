"""Schedules to try: what TVM's MetaSchedule makes of a function, and traces as plain data.

A trace is the list of what was done to a function's loops. Applied to the same function it gives
the same loops, so that it is all that has to be kept of a schedule.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsecc.backends.tvm.load import load
from sparsecc.backends.tvm.symbols import variables_in

BATCH = 8
"""Schedules that are made at a time; what was measured leads to the next."""
_MOST = 1 << 20
"""Schedules of one function: time ends before."""
_SEARCH: Any = {
    "population_size": 4 * BATCH,
    "init_measured_ratio": 0.5,
    "init_min_unmeasured": BATCH,
    "max_fail_count": 4,
    "genetic_num_iters": 2,
    "genetic_mutate_prob": 0.85,
    "genetic_max_fail_count": 4,
    "eps_greedy": 0.1,
}
"""A small population: it is timed that schedules are judged by, not guessed, and TVM takes a second
for a few dozen of them."""
_CORES = 16
"""Outermost loops are made long enough for so many."""


def sizes_in(function: Any) -> list[Any]:
    """The variables that a function's sizes are made of, by name."""
    found = variables_in([function.body, *(each.ty for each in function.params)])
    given = [each for each in function.params if not hasattr(each.ty, "shape")]
    dims = variables_in([each.ty for each in function.params]) | set(given)
    return sorted((each for each in found if each in dims), key=lambda each: str(each.name))


class Search:
    """Schedules of one function, better ones the longer it is told how long they take.

    Args:
        function: Its sizes are known.
        target: What TVM generates code for.
        seed: Of the search.
    """

    def __init__(self, function: Any, target: Any, seed: int) -> None:
        tvm = load()
        _without_other_processors()
        from tvm.s_tir import meta_schedule as ms
        from tvm.s_tir.meta_schedule.runner import RunnerResult

        self.result, self.record = RunnerResult, ms.database.TuningRecord
        module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
        cpu = {key: value for key, value in target.export().items() if key != "host"}
        self.target = tvm.target.Target(cpu | {"num-cores": _CORES})
        self.database = ms.database.MemoryDatabase()
        self.workload = self.database.commit_workload(module)
        self.context = ms.TuneContext(
            module,
            target=self.target,
            space_generator="post-order-apply",
            search_strategy=ms.search_strategy.EvolutionarySearch(**_SEARCH),
            rand_state=seed + 1,  # 0 would be any
            num_threads=1,
        )
        spaces = self.context.generate_design_space()
        self.context.pre_tuning(_MOST, BATCH, spaces, self.database)

    def batches(self) -> Iterator[list[Any]]:
        """Candidates, ``sch`` of each a schedule; they end where there are no others."""
        while candidates := self.context.generate_measure_candidates():
            yield list(candidates)

    def tell(self, candidates: Sequence[Any], times: Sequence[float | None]) -> None:
        """How long candidates took, ms; None where they failed."""
        results = []
        for candidate, ms in zip(candidates, times, strict=True):
            seconds = None if ms is None else [ms / 1e3]
            results.append(self.result(seconds, None if seconds else "failed"))
            if seconds:
                trace = candidate.sch.trace
                made = self.record(trace, self.workload, seconds, self.target, candidate.args_info)
                self.database.commit_tuning_record(made)
        self.context.notify_runner_results(list(candidates), results)


def _without_other_processors() -> None:
    """Keep MetaSchedule from registering the instructions of every GPU, which takes long."""
    name = "tvm.s_tir.tensor_intrin"
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(Path(load().__file__).parent / "s_tir" / "tensor_intrin")]
        sys.modules[name] = package
        importlib.import_module(f"{name}.x86")


def trace_of(sch: Any) -> list[Any]:
    """What was done to a schedule, as plain JSON."""
    made: list[Any] = _plain(sch.trace.as_json())
    return made


def _plain(each: Any) -> Any:
    if isinstance(each, bool | str) or each is None:
        return each
    if isinstance(each, int | float):
        return each
    if hasattr(each, "value"):
        return _plain(each.value)
    return [_plain(part) for part in each]


def applied(function: Any, trace: Sequence[Any]) -> Any:
    """A function with its loops as a trace says.

    Raises:
        Exception: TVM's, where the trace is of another function.
    """
    tvm = load()
    named = function.with_attr("global_symbol", "main")
    sch = tvm.s_tir.Schedule(tvm.IRModule({"main": named}))
    tvm.s_tir.schedule.Trace.apply_json_to_schedule(trace, sch)
    return finished(sch)


def finished(sch: Any) -> Any:
    """The function of a schedule; what one iteration of a loop alone uses lies inside of it."""
    tvm = load()
    place = tvm.s_tir.transform.PlanAndUpdateBufferAllocationLocation()
    return place(sch.mod)["main"].without_attr("global_symbol")
