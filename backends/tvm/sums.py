"""Direct loops for sums, largest values and the like along the axis that lies one by one in memory.

Every lane of some vectors has a partial result; what fills no vector is added to the whole one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sparsecc.backends.tvm.load import load, tvm_ffi
from sparsecc.backends.tvm.products import (
    REDUCE,
    SPATIAL,
    Registers,
    replaced,
    steps_by_one,
    variables_of,
)

VECTORS = 4
"""Of partial results: one would wait for the sum before it."""


def sum_nest(block: Any, registers: Registers) -> Any | None:
    """The loops of a reduction; None where it is of another kind."""
    found = _combined(block)
    if found is None:
        return None
    combine, term = found
    last = [each.var for each in block.iter_vars if int(each.iter_type) == REDUCE][-1]
    reads: list[Any] = []
    tvm_ffi().structural_walk(term, (load().ir.TensorLoad, reads.append))
    along = [each for each in reads if last in variables_of(each.indices)]
    if not along or not all(steps_by_one(each, last) for each in along):
        return None
    return _Writer(block, combine, term, registers).nest()


def _combined(block: Any) -> tuple[Any, Any] | None:
    """How a reduction joins what it has with one more element, and that element."""
    tirx, store = load().tirx, block.body
    if block.init is None or not isinstance(store, tirx.BufferStore):
        return None
    for kind in (tirx.Add, tirx.Max, tirx.Min, tirx.Mul):
        if isinstance(store.value, kind):
            parts = [store.value.a, store.value.b]
            own = [store.buffer in variables_of([each]) for each in parts]
            result = parts[own.index(True)] if sum(own) == 1 else None
            if isinstance(result, load().ir.TensorLoad):
                return kind, parts[own.index(False)]
    return None


class _Writer:
    def __init__(self, block: Any, combine: Any, term: Any, registers: Registers) -> None:
        self.tirx, self.block, self.store = load().tirx, block, block.body
        self.combine, self.term = combine, term
        self.extent = {each.var: each.dom.extent for each in block.iter_vars}
        self.spatial = [each.var for each in block.iter_vars if int(each.iter_type) == SPATIAL]
        *self.outer, self.last = [v.var for v in block.iter_vars if int(v.iter_type) == REDUCE]
        self.width = VECTORS * registers.lanes

    def nest(self) -> Any:
        tirx, dtype = self.tirx, self.store.buffer.ty.dtype
        place = tirx.Var("place", "int64")
        at, rest = {}, place
        for each in reversed(self.spatial):
            at[each] = rest % self.extent[each] if each is not self.spatial[0] else rest
            rest = rest // self.extent[each]
        partial = tirx.decl_buffer((self.width,), dtype, name="partial")
        whole = tirx.decl_buffer((1,), dtype, name="whole")
        zero = self._number(0)
        clear = tirx.Var("lane", "int64")
        join = tirx.Var("joined", "int64")
        body = tirx.SeqStmt(
            [
                tirx.AllocBuffer(partial),
                tirx.AllocBuffer(whole),
                self._vector(clear, tirx.BufferStore(partial, self.block.init.value, [clear])),
                tirx.BufferStore(whole, self.block.init.value, [zero]),
                self._over_outer(at, partial, whole),
                self._loop(join, self._number(self.width), self._joined(whole, partial, join)),
                self._kept(at, whole),
            ]
        )
        total = math.prod([self.extent[each] for each in self.spatial], start=self._number(1))
        return tirx.For(place, zero, total, tirx.ForKind.PARALLEL, body)

    def _over_outer(self, at: Mapping[Any, Any], partial: Any, whole: Any) -> Any:
        tirx, extent = self.tirx, self.extent[self.last]
        fresh = {each: tirx.Var(each.name, "int64") for each in self.outer}
        step, lane, rest = (tirx.Var(name, "int64") for name in ("step", "lane", "rest"))
        count = extent // self.width
        parts = []
        inner = self._added(partial, lane, {**at, **fresh, self.last: step * self.width + lane})
        parts.append(self._loop(step, count, self._vector(lane, inner)))
        behind = {**at, **fresh, self.last: count * self.width + rest}
        left = extent - count * self.width
        parts.append(self._loop(rest, left, self._added(whole, self._number(0), behind)))
        body = tirx.SeqStmt(parts)
        for each in reversed(self.outer):
            body = self._loop(fresh[each], self.extent[each], body)
        return body

    def _added(self, into: Any, place: Any, by: Mapping[Any, Any]) -> Any:
        """One more element."""
        value = self.combine(self.tirx.BufferLoad(into, [place]), replaced(self.term, by))
        return self.tirx.BufferStore(into, value, [place])

    def _joined(self, whole: Any, partial: Any, lane: Any) -> Any:
        """One more partial result."""
        tirx, zero = self.tirx, self._number(0)
        loads = tirx.BufferLoad(whole, [zero]), tirx.BufferLoad(partial, [lane])
        return tirx.BufferStore(whole, self.combine(*loads), [zero])

    def _kept(self, at: Mapping[Any, Any], whole: Any) -> Any:
        indices = [replaced(index, at) for index in self.store.indices]
        value = self.tirx.BufferLoad(whole, [self._number(0)])
        return self.tirx.BufferStore(self.store.buffer, value, indices)

    def _vector(self, lane: Any, body: Any) -> Any:
        kind = self.tirx.ForKind.VECTORIZED
        return self.tirx.For(lane, self._number(0), self._number(self.width), kind, body)

    def _loop(self, variable: Any, extent: Any, body: Any) -> Any:
        kind = self.tirx.ForKind.SERIAL
        return self.tirx.For(variable, self._number(0), extent.astype("int64"), kind, body)

    def _number(self, value: int) -> Any:
        return self.tirx.IntImm("int64", value)
