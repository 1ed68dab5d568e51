"""A scheduled function as one kernel for each of its loop nests, with a C interface of its own.

A kernel is ``void name(pointers…, sizes…, begin, end)``: it does the iterations [begin, end) of its
outermost loop, so that whoever calls it says what runs on which thread, and no runtime is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsecc.backends.tvm.load import load, tvm_ffi
from sparsecc.backends.tvm.lower import dims_of
from sparsecc.backends.tvm.symbols import variables_in


@dataclass(frozen=True)
class Nest:
    """One loop nest.

    Attributes:
        function: Parameters are buffers, then sizes, then ``begin`` and ``end`` where `extent` is
            not None.
        buffers: TVM's buffers, in the order of the parameters.
        sizes: The variables, in the order of the parameters.
        extent: Iterations of the outermost loop, where they may run at the same time.
        work: Iterations of all loops together.
        name: Of what it computes, for people.
    """

    function: Any
    buffers: tuple[Any, ...]
    sizes: tuple[Any, ...]
    extent: Any | None
    work: Any
    name: str


def nests_of(function: Any, variables: Sequence[Any], name: str) -> list[Nest]:
    """The loop nests of a scheduled function, in the order they run.

    Buffers that one nest alone uses stay inside it, all others become its parameters.

    Args:
        function: Its parameters are buffers.
        variables: Those that its sizes are made of.
        name: What it computes, for people.
    """
    root = function.body
    block = root.block
    statements = _statements(block.body)
    used = [_buffers(statement) for statement in statements]
    local = [
        {each for each in block.alloc_buffers if each in mine and _stays(each, used)}
        for mine in used
    ]
    return [
        _nest(statement, [each for each in mine if each not in own], own, variables, name)
        for statement, mine, own in zip(statements, used, local, strict=True)
    ]


def _statements(body: Any) -> list[Any]:
    if hasattr(body, "seq"):
        return [each for part in body.seq for each in _statements(part)]
    return [] if isinstance(body, load().tirx.AttrStmt) else [body]


STACK_BYTES = 1 << 10
"""Of a buffer inside of a kernel; TVM asks a runtime for larger ones."""


def _stays(buffer: Any, used: Sequence[Sequence[Any]]) -> bool:
    dims = dims_of(buffer.ty.shape)
    if sum(buffer in each for each in used) != 1 or not all(isinstance(dim, int) for dim in dims):
        return False
    return bool(math.prod(dims) * np.dtype(str(buffer.ty.dtype)).itemsize <= STACK_BYTES)


def _buffers(statement: Any) -> list[Any]:
    """Buffers from outside of a statement, each once, in the order of use."""
    found: list[Any] = []
    inside: list[Any] = []
    ffi, tvm = tvm_ffi(), load()
    keep = lambda var: found.append(var) if tvm.tirx.is_buffer_var(var) else None  # noqa: E731
    ffi.structural_walk(
        statement,
        [
            (tvm.ir.Var, keep),
            (tvm.s_tir.SBlock, lambda each: inside.extend(each.alloc_buffers)),
            (tvm.tirx.AllocBuffer, lambda each: inside.append(each.buffer)),
        ],
        order="pre",
    )
    return [buffer for buffer in dict.fromkeys(found) if buffer not in inside]


def _nest(
    statement: Any, buffers: list[Any], own: set[Any], variables: Sequence[Any], name: str
) -> Nest:
    tvm = load()
    tirx, s_tir = tvm.tirx, tvm.s_tir
    bounds: list[Any] = []
    extent, work = None, _work(statement, set())
    if isinstance(statement, tirx.For) and statement.kind == tirx.ForKind.PARALLEL:
        begin, end = (tirx.Var(each, "int64") for each in ("begin", "end"))
        extent, bounds = statement.extent, [begin, end]
        statement = _share(statement, begin, end)
    statement = tvm_ffi().structural_map(statement, (tirx.For, _serial))
    inner = s_tir.SBlock([], [], [], "root", statement, alloc_buffers=sorted(own, key=str))
    body = s_tir.SBlockRealize([], True, inner)
    used = variables_in([body, *(buffer.ty for buffer in buffers)])
    sizes = [variable for variable in variables if variable in used]
    made = tirx.PrimFunc([*buffers, *sizes, *bounds], body)
    made = made.with_attrs({"tirx.noalias": True, "s_tir": True})
    return Nest(made, tuple(buffers), tuple(sizes), extent, work, name)


def _serial(loop: Any) -> Any:
    """Loops inside of what a thread does stay on it."""
    kinds = load().tirx.ForKind
    if loop.kind != kinds.PARALLEL:
        return loop
    parts = loop.loop_var, loop.min, loop.extent, kinds.SERIAL, loop.body
    return load().tirx.For(*parts, annotations=loop.annotations)


def _share(loop: Any, begin: Any, end: Any) -> Any:
    """Iterations [begin, end) of a loop, one after another."""
    tirx = load().tirx
    index = tirx.Var(loop.loop_var.name, "int64")
    at = (begin + index).astype(loop.loop_var.ty.dtype)
    body = tvm_ffi().structural_map(
        loop.body, (load().ir.Var, lambda var: at if var.same_as(loop.loop_var) else var)
    )
    kind, notes = tirx.ForKind.SERIAL, loop.annotations
    return tirx.For(index, tirx.IntImm("int64", 0), end - begin, kind, body, annotations=notes)


def _work(statement: Any, inside: set[Any]) -> Any:
    """Iterations of the innermost loops; those whose number changes on the way count as one."""
    tirx, s_tir = load().tirx, load().s_tir
    if isinstance(statement, s_tir.SBlockRealize):
        return _work(statement.block.body, inside)
    if hasattr(statement, "seq"):
        parts = [_work(each, inside) for each in statement.seq]
        return sum(parts[1:], parts[0])
    if not isinstance(statement, tirx.For):
        return 1
    fixed = not variables_in([statement.extent]) & inside
    inner = _work(statement.body, inside | {statement.loop_var})
    return statement.extent * inner if fixed else inner
