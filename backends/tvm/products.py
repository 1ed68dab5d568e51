"""Direct loops for products: a tile of results in registers while it runs over what is summed.

TVM's schedules cut loops whose sizes are open or have no good divisor into pieces with a condition
in each; vectors of them are slow. Here a nest is written out, with whole tiles first and what is
left of columns and rows after them, so that no size is a bad one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsecc.backends.tvm.load import load, tvm_ffi

SPATIAL, REDUCE = 0, 2
"""``IterVar.DataPar`` and ``IterVar.CommReduce``."""
ROWS = 4
"""Rows of a tile: they share what is read of the columns."""
LEAST = 4
"""Columns of the smallest tile. All are powers of two: other vectors are slow."""


@dataclass(frozen=True)
class Registers:
    """Vector registers of a processor.

    Attributes:
        lanes: float32 numbers in one.
        count: How many there are.
    """

    lanes: int
    count: int

    @property
    def columns(self) -> int:
        """Of a tile: half of the registers hold sums."""
        return max(1, self.count // 2 // ROWS) * self.lanes


@dataclass(frozen=True)
class Product:
    """A reduction that sums products, and which of its axes a tile has.

    Attributes:
        block: The block of the reduction.
        row: Axis that the operand along the columns does not have.
        column: Axis that steps through memory one by one.
    """

    block: Any
    row: Any
    column: Any


def product_of(block: Any) -> Product | None:
    """The product that a block is, or None."""
    tvm = load()
    term = _term(block)
    if term is None:
        return None
    reads: list[Any] = []
    tvm_ffi().structural_walk(term, (tvm.ir.TensorLoad, reads.append))
    spatial = [each.var for each in block.iter_vars if int(each.iter_type) == SPATIAL]
    if not spatial or not reads:
        return None
    column = spatial[-1]
    across = [each for each in reads if column in variables_of(each.indices)]
    if not across or not all(steps_by_one(each, column) for each in across):
        return None
    used = set().union(*(variables_of(each.indices) for each in across))
    free = [each for each in spatial[:-1] if each not in used]
    return Product(block, free[-1], column) if free else None


def _term(block: Any) -> Any | None:
    """What is added in each iteration, where it is a product."""
    tirx, store = load().tirx, block.body
    if block.init is None or not isinstance(store, tirx.BufferStore):
        return None
    if not isinstance(store.value, tirx.Add):
        return None
    parts = [store.value.a, store.value.b]
    term = next((each for each in parts if not _reads(each, store.buffer)), None)
    inner = term
    while isinstance(inner, tirx.Cast):
        inner = inner.value
    return term if isinstance(inner, tirx.Mul) else None


def _reads(expression: Any, buffer: Any) -> bool:
    return buffer in variables_of([expression])


def steps_by_one(read: Any, axis: Any) -> bool:
    """Whether what is read lies beside when an axis goes on by one."""
    *others, last = read.indices
    if axis in variables_of(others):
        return False
    analyzer = load().sym.Analyzer()
    return bool(analyzer.can_prove_equal(replaced(last, {axis: axis + 1}) - last, 1))


def variables_of(expressions: Sequence[Any]) -> set[Any]:
    """All variables in expressions."""
    found: set[Any] = set()
    for each in expressions:
        tvm_ffi().structural_walk(each, (load().ir.Var, found.add))
    return found


def replaced(tree: Any, by: Mapping[Any, Any]) -> Any:
    """A tree with expressions in the place of variables."""
    return tvm_ffi().structural_map(tree, (load().ir.Var, lambda var: by.get(var, var)))


def product_nest(product: Product, registers: Registers) -> Any:
    """The loops of a product; iterations of the outermost may run at the same time."""
    return _Writer(product, registers).nest()


class _Writer:
    def __init__(self, product: Product, registers: Registers) -> None:
        self.tirx, self.registers = load().tirx, registers
        self.block, self.row, self.column = product.block, product.row, product.column
        axes = self.block.iter_vars
        self.extent = {each.var: each.dom.extent for each in axes}
        spatial = [each.var for each in axes if int(each.iter_type) == SPATIAL]
        self.outer = [each for each in spatial if each not in (self.row, self.column)]
        self.summed = [each.var for each in axes if int(each.iter_type) == REDUCE]
        self.term, self.zero = _term(self.block), self.block.init.value

    def nest(self) -> Any:
        tirx = self.tirx
        rows = self.extent[self.row]
        high = min(ROWS, int(rows)) if isinstance(rows, tirx.IntImm) else ROWS
        tiles = (rows + high - 1) // high
        place = tirx.Var("tile", "int64")
        total = math.prod([self.extent[each] for each in self.outer], start=tiles)
        at, rest = {}, place // tiles
        for each in reversed(self.outer):
            at[each] = rest % self.extent[each]
            rest = rest // self.extent[each]
        first = place % tiles * high
        whole = self._columns(at, first, high)
        body = whole if self._divides(rows, high) else self._some_rows(at, first, high, whole)
        return tirx.For(place, self._number(0), total, tirx.ForKind.PARALLEL, body)

    def _some_rows(self, at: Mapping[Any, Any], first: Any, high: int, whole: Any) -> Any:
        """A whole tile of rows where there is one, else what is left row by row."""
        tirx, row = self.tirx, self.tirx.Var("row", "int64")
        rows = self.extent[self.row]
        single = self._columns(at, first + row, 1)
        left = self._loop(row, rows - first, single)
        return tirx.IfThenElse(first + high <= rows, whole, left)

    def _columns(self, at: Mapping[Any, Any], first: Any, high: int) -> Any:
        """All columns of some rows: wide tiles, then narrower ones, and the rest in memory."""
        columns, start, parts = self.extent[self.column], self._number(0), []
        for width in self._widths(columns):
            left = columns - start
            count = self._simplified(left // width)
            place = self.tirx.Var("column", "int64")
            tile = self._tile(at, first, high, start + place * width, width)
            if not self._is_zero(count):
                parts.append(self._loop(place, count, tile))
            start = self._simplified(start + count * width)
        left = self._simplified(columns - start)
        if not self._is_zero(left):
            parts += [self._rest(at, first + row, start, left) for row in range(high)]
        return self.tirx.SeqStmt(parts) if len(parts) > 1 else parts[0]

    def _widths(self, columns: Any) -> list[int]:
        """Of tiles: halves down to a vector, and to a part of one where their number is known."""
        known = isinstance(columns, self.tirx.IntImm)
        least = LEAST if known else self.registers.lanes
        widths = [self.registers.columns]
        while widths[-1] > least:
            widths.append(widths[-1] // 2)
        return widths

    def _tile(self, at: Mapping[Any, Any], first: Any, high: int, start: Any, width: int) -> Any:
        """Sums in registers."""
        tirx, store = self.tirx, self.block.body
        sums = [
            tirx.decl_buffer((width,), store.buffer.ty.dtype, name=f"sums{row}")
            for row in range(high)
        ]

        def lanes(row: int, make: Any) -> Any:
            lane = tirx.Var("lane", "int64")
            by = {**at, self.row: first + row, self.column: start + lane}
            made = make(by, sums[row], [lane])
            zero, kind = self._number(0), tirx.ForKind.VECTORIZED
            return tirx.For(lane, zero, self._number(width), kind, made)

        def clear(by: Mapping[Any, Any], own: Any, lane: list[Any]) -> Any:
            return tirx.BufferStore(own, self.zero, lane)

        def add(by: Mapping[Any, Any], own: Any, lane: list[Any]) -> Any:
            value = tirx.BufferLoad(own, lane) + replaced(self.term, by)
            return tirx.BufferStore(own, value, lane)

        def keep(by: Mapping[Any, Any], own: Any, lane: list[Any]) -> Any:
            indices = [replaced(index, by) for index in store.indices]
            return tirx.BufferStore(store.buffer, tirx.BufferLoad(own, lane), indices)

        rows = range(high)
        added = self._sequence([lanes(row, add) for row in rows])
        return self._sequence(
            [
                *(tirx.AllocBuffer(each) for each in sums),
                *(lanes(row, clear) for row in rows),
                self._over_summed(added),
                *(lanes(row, keep) for row in rows),
            ]
        )

    def _rest(self, at: Mapping[Any, Any], row: Any, start: Any, left: Any) -> Any:
        """Columns that fill no vector, of one row, summed where they lie."""
        tirx, store = self.tirx, self.block.body

        def over(make: Any) -> Any:
            column = tirx.Var("rest", "int64")
            by = {**at, self.row: row, self.column: start + column}
            indices = [replaced(index, by) for index in store.indices]
            return self._loop(
                column, left, tirx.BufferStore(store.buffer, make(by, indices), indices)
            )

        def clear(by: Mapping[Any, Any], indices: list[Any]) -> Any:
            return self.zero

        def add(by: Mapping[Any, Any], indices: list[Any]) -> Any:
            return tirx.BufferLoad(store.buffer, indices) + replaced(self.term, by)

        return self._sequence([over(clear), self._over_summed(over(add))])

    def _over_summed(self, body: Any) -> Any:
        """Loops over what is summed; each has variables of its own."""
        for each in reversed(self.summed):
            fresh = self.tirx.Var(each.name, "int64")
            body = self._loop(fresh, self.extent[each], replaced(body, {each: fresh}))
        return body

    def _loop(self, variable: Any, extent: Any, body: Any) -> Any:
        kind = self.tirx.ForKind.SERIAL
        return self.tirx.For(variable, self._number(0), extent.astype("int64"), kind, body)

    def _sequence(self, statements: Sequence[Any]) -> Any:
        return statements[0] if len(statements) == 1 else self.tirx.SeqStmt(list(statements))

    def _number(self, value: int) -> Any:
        return self.tirx.IntImm("int64", value)

    def _simplified(self, expression: Any) -> Any:
        return load().sym.Analyzer().simplify(expression)

    def _is_zero(self, expression: Any) -> bool:
        return isinstance(expression, self.tirx.IntImm) and int(expression) == 0

    def _divides(self, extent: Any, by: int) -> bool:
        return isinstance(extent, self.tirx.IntImm) and int(extent) % by == 0
