"""Schedules for sums and largest values: where partial results are kept, and in what order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsecc.backends.tvm.load import load, tvm_ffi
from sparsecc.backends.tvm.products import REDUCE, SPATIAL, variables_of


def order_reduction(sch: Any, block: Any) -> bool:
    """Order the loops of a reduction; whether a rule fits.

    Args:
        sch: A schedule.
        block: A block whose axes are its loops.
    """
    what, loops = sch.get(block), sch.get_loops(block)
    kinds = [int(each.iter_type) for each in what.iter_vars]
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == SPATIAL]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == REDUCE]
    if not spatial:
        return True
    if neighbours(what, SPATIAL):
        _rows(sch, block, spatial, reduced)
    else:
        over_threads(sch, spatial)
        sch.decompose_reduction(block, reduced[0])
    return True


def over_threads(sch: Any, loops: Sequence[Any]) -> None:
    """Make one loop of several, whose iterations may run at the same time."""
    sch.parallel(sch.fuse(*loops) if len(loops) > 1 else loops[0])


def _rows(sch: Any, block: Any, spatial: Sequence[Any], reduced: Sequence[Any]) -> None:
    """A row of results at a time, in memory."""
    *outer, lanes = spatial
    sch.reorder(*outer, *reduced, lanes)
    if outer:
        over_threads(sch, outer)
    sch.decompose_reduction(block, reduced[0])


def neighbours(block: Any, kind: int) -> bool:
    """Whether the last axis of a kind steps through memory in some operand one by one."""
    own = [each.var for each in block.iter_vars if int(each.iter_type) == kind]
    reads: list[Any] = []
    tvm_ffi().structural_walk(block.body, (load().ir.TensorLoad, reads.append))
    stored = getattr(block.body, "buffer", None)
    return bool(own) and any(
        each.indices and own[-1] in variables_of([each.indices[-1]])
        for each in reads
        if stored is None or not each.source.same_as(stored)
    )
