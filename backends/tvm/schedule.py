"""Schedules for loop nests: no work twice, neighbours innermost, the rest over threads.

LLVM makes vectors of an innermost loop that reads and writes neighbours; what it needs is that
there is such a loop, and that sums have more than one place to go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsecc.backends.kernels.table import ISAS
from sparsecc.backends.tvm.load import load, tvm_ffi
from sparsecc.backends.tvm.products import REDUCE, SPATIAL, Registers, product_nest, product_of
from sparsecc.backends.tvm.reductions import neighbours, order_reduction, over_threads
from sparsecc.backends.tvm.sums import sum_nest
from sparsecc.targets import Target

DEAR = {"exp", "exp2", "log", "tanh", "erf", "pow", "sqrt", "rsqrt", "sin", "cos", "sigmoid", "tan"}
"""Functions worth computing once for several readers."""
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


def registers_of(target: Target) -> Registers:
    """Those of the least processor that a target's files run on."""
    lanes = ISAS[target.isas[0]].lanes
    return Registers(lanes, 16 if target.isas[0] in _FEW else 32)


_FEW = ("x86-64-v3", "wasm-simd128", "wasm-relaxed")
"""Instruction sets of 16 vector registers."""


def schedule(function: Any, registers: Registers) -> Scheduled:
    """Inline what only passes elements on, then order the loops of every nest.

    Args:
        function: As TVM makes them of ops.
        registers: Of the processor.
    """
    tvm = load()
    if str(function.body.block.name_hint) != "root":
        return Scheduled(function, ())  # written as loops, by hand
    sch = tvm.s_tir.Schedule(tvm.IRModule({"main": function}))
    _inline(sch)
    left: list[str] = []
    written: dict[int, Any] = {}
    for at, block in enumerate(_blocks(sch)):
        nest = _written(sch.get(block), registers)
        if nest is not None:
            written[at] = nest
            continue
        if not _order(sch, block) and _work(sch, block) >= HOT:
            left.append(str(sch.get(block).name_hint))
    return Scheduled(_with(sch.mod["main"], written), tuple(left))


def _written(block: Any, registers: Registers) -> Any | None:
    """The loops of a block that has some of its own."""
    if not _reduces(block):
        return None
    product = product_of(block)
    if product is not None:
        return product_nest(product, registers)
    return None if neighbours(block, SPATIAL) else sum_nest(block, registers)


def _with(function: Any, nests: Mapping[int, Any]) -> Any:
    """A function with other statements in the place of some of its root's."""
    tvm = load()
    root = function.body.block
    statements = list(root.body.seq) if hasattr(root.body, "seq") else [root.body]
    if not nests:
        return function
    for at, nest in nests.items():
        statements[at] = nest
    body = tvm.tirx.SeqStmt(statements) if len(statements) > 1 else statements[0]
    block = tvm.s_tir.SBlock([], [], [], "root", body, alloc_buffers=root.alloc_buffers)
    return function.with_body(tvm.s_tir.SBlockRealize([], True, block))


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
    return any(int(each.iter_type) == REDUCE for each in block.iter_vars)


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
    what, loops = sch.get(block), sch.get_loops(block)
    kinds = {int(each.iter_type) for each in what.iter_vars}
    if len(loops) != len(what.iter_vars) or kinds - {SPATIAL, REDUCE}:
        return False
    if REDUCE in kinds:
        return order_reduction(sch, block)
    if loops:
        over_threads(sch, loops[:-1] or loops)
    return True
