"""Schedules for loop nests: no work twice, neighbours innermost, the rest over threads.

LLVM makes vectors of an innermost loop that reads and writes neighbours; what it needs is that
there is such a loop, and that sums have more than one place to go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sparsecc.backends.tvm.load import load, tvm_ffi

DEAR = {"exp", "exp2", "log", "tanh", "erf", "pow", "sqrt", "rsqrt", "sin", "cos", "sigmoid", "tan"}
"""Functions worth computing once for several readers."""
ROWS = 4
"""Rows of a product that share what they read of the other operand."""
HOT = 1 << 20
"""Multiply-adds, or elements, from which on a loop nest counts as hot."""


@dataclass(frozen=True)
class Scheduled:
    """A function after scheduling.

    Attributes:
        function: The same computation.
        left: Names of hot loop nests that no rule fits, in the order they run.
    """

    function: Any
    left: tuple[str, ...]


def schedule(function: Any) -> Scheduled:
    """Inline what only passes elements on, then order the loops of every nest."""
    tvm = load()
    if str(function.body.block.name_hint) != "root":
        return Scheduled(function, ())  # written as loops, by hand
    sch = tvm.s_tir.Schedule(tvm.IRModule({"main": function}))
    _inline(sch)
    left = []
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        if not _order(sch, block) and _work(sch, block) >= HOT:
            left.append(str(sch.get(block).name_hint))
    return Scheduled(sch.mod["main"], tuple(left))


def _blocks(sch: Any) -> list[Any]:
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def _inline(sch: Any) -> None:
    """Every block that is no reduction goes into its readers where nothing is then done twice."""
    made = {str(sch.get(block).name_hint) for block in sch.get_output_blocks("root")}
    for block in _blocks(sch):
        what = sch.get(block)
        if str(what.name_hint) in made or _reduces(what):
            continue
        readers = [sch.get(each) for each in sch.get_consumers(block)]
        if any(_repeats(what, reader) for reader in readers):
            continue
        if len(readers) > 1 and _is_dear(what):
            continue
        _try(lambda block=block: sch.compute_inline(block))
    for block in _blocks(sch):
        if not _reduces(sch.get(block)) and not _several_readers(sch, block):
            _try(lambda block=block: sch.reverse_compute_inline(block))


def _try(step: Any) -> bool:
    """Whether a step of the schedule was possible; it changes nothing where it is not."""
    try:
        step()
    except load().s_tir.ScheduleError:
        return False
    return True


def _several_readers(sch: Any, block: Any) -> bool:
    return len(sch.get_producers(block)) != 1


def _reduces(block: Any) -> bool:
    return any(int(each.iter_type) == _REDUCE for each in block.iter_vars)


_SPATIAL, _REDUCE = 0, 2
"""``IterVar.DataPar`` and ``IterVar.CommReduce``."""


def _repeats(block: Any, reader: Any) -> bool:
    """Whether a reader asks for an element of the block more than once."""
    if not _reduces(reader):
        return False
    tvm = load()
    mine, theirs = (_extent(each.iter_vars) for each in (block, reader))
    return not tvm.sym.Analyzer().can_prove_equal(mine, theirs)


def _extent(iterators: Any) -> Any:
    product = load().tirx.IntImm("int64", 1)
    for each in iterators:
        product = product * each.dom.extent
    return product


def _is_dear(block: Any) -> bool:
    return any(name in DEAR for name in _calls(block.body))


def _calls(statement: Any) -> list[str]:
    found: list[str] = []
    call = load().ir.Call
    tvm_ffi().structural_walk(
        statement,
        (call, lambda each: found.append(str(getattr(each.op, "name", "")).split(".")[-1])),
    )
    return found


def _work(sch: Any, block: Any) -> int:
    """Iterations of a block; open sizes count as 128."""
    total = 1
    for each in sch.get(block).iter_vars:
        extent = each.dom.extent
        total *= int(extent) if isinstance(extent, load().tirx.IntImm) else 128
    return total


def _order(sch: Any, block: Any) -> bool:
    """Order the loops of a nest; whether a rule fits."""
    what = sch.get(block)
    loops = sch.get_loops(block)
    if len(loops) != len(what.iter_vars):
        return False
    kinds = [int(each.iter_type) for each in what.iter_vars]
    if set(kinds) - {_SPATIAL, _REDUCE}:
        return False
    if _REDUCE not in kinds:
        return _elementwise(sch, loops)
    return _reduction(sch, block, what, loops, kinds)


def _elementwise(sch: Any, loops: list[Any]) -> bool:
    if loops:
        _over_threads(sch, loops[:-1] or loops)
    return True


def _over_threads(sch: Any, loops: list[Any]) -> None:
    outer = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    sch.parallel(outer)


def _reduction(sch: Any, block: Any, what: Any, loops: list[Any], kinds: list[int]) -> bool:
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _SPATIAL]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _REDUCE]
    if not spatial:
        return True
    lanes = spatial[-1] if _reads_neighbours(what, kinds) else None
    outer = spatial if lanes is None else spatial[:-1]
    rows = None
    if lanes is not None and _is_product(what) and outer:
        outer, rows = _tile_rows(sch, outer)
    inner = [each for each in (rows, lanes) if each is not None]
    sch.reorder(*outer, *reduced, *inner)
    if outer:
        _over_threads(sch, outer)
    sch.decompose_reduction(block, (reduced + inner)[0])
    return True


def _tile_rows(sch: Any, outer: list[Any]) -> tuple[list[Any], Any]:
    """Cut the last of the outer loops into groups of rows, where that leaves none over."""
    extent = sch.get(outer[-1]).extent
    if not isinstance(extent, load().tirx.IntImm) or int(extent) % ROWS:
        return outer, None
    groups, rows = sch.split(outer[-1], [None, ROWS])
    sch.unroll(rows)
    return [*outer[:-1], groups], rows


def _is_product(block: Any) -> bool:
    """Whether a reduction sums products of two operands."""
    store = block.body
    mul = load().tirx.Mul
    return hasattr(store, "value") and any(
        isinstance(each, mul)
        for each in (getattr(store.value, "a", None), getattr(store.value, "b", None))
    )


def _reads_neighbours(block: Any, kinds: list[int]) -> bool:
    """Whether the last of the output's axes steps through memory in some operand one by one."""
    last = [
        each.var for each, kind in zip(block.iter_vars, kinds, strict=True) if kind == _SPATIAL
    ][-1]
    return any(each.indices and last in _variables(each.indices[-1]) for each in _loads(block.body))


def _loads(statement: Any) -> Iterator[Any]:
    found: list[Any] = []
    stored = statement.buffer if hasattr(statement, "buffer") else None
    tvm_ffi().structural_walk(statement, (load().ir.TensorLoad, found.append))
    return (each for each in found if stored is None or not each.source.same_as(stored))


def _variables(expression: Any) -> list[Any]:
    found: list[Any] = []
    tvm_ffi().structural_walk(expression, (load().ir.Var, found.append))
    return found
