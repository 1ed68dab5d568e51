"""Runs functions that TVM generated in this process: a library of them alone, called by ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.backends.codegen.toolchain import Build, Unit, compile_and_link
from sparsecc.backends.kernels.sources import read_sources
from sparsecc.backends.kernels.table import TYPES
from sparsecc.backends.tvm.externs import Leftovers
from sparsecc.targets import Target

Array = NDArray[Any]
RANK = 6
HERE = Path(__file__).parent
TABLE = "table.c"


class Tensor(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("type", "layout", "rank")),
        ("dims", ctypes.c_int64 * RANK),
        ("data", ctypes.c_void_p),
    )


class Constant(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("type", "rank")),
        ("dims", ctypes.c_int64 * RANK),
        ("data", ctypes.c_void_p),
        ("count", ctypes.c_int64),
    )


def build(left: Leftovers, target: Target, folder: Path) -> ctypes.CDLL:
    """A library of the externs, their objects and what these need of the kernel library."""
    names = [extern.name for extern in left.externs]
    table = [
        '#include "extern.h"',
        *(f"extern const sc_extern sc_extern_{name};" for name in names),
        '__attribute__((visibility("hidden"))) const sc_extern *const sc_externs[] = {',
        *(f"  &sc_extern_{name}," for name in names),
        "};",
        f'__attribute__((visibility("hidden"))) const i32 sc_extern_count = {len(names)};',
    ]
    sources = read_sources(HERE) | {f"{each.name}.c": each.source for each in left.externs}
    sources[TABLE] = "\n".join(table) + "\n"
    for name, content in left.objects.items():
        (folder / name).write_bytes(content)
    made = Build(
        name="chains.so",
        triple=target.triple,
        sources=sources,
        units=tuple(Unit(f"{name}.c") for name in (*names, "check", "driver", "table")),
        link_flags=("-shared", *(str(folder / name) for name in left.objects)),
    )
    return ctypes.CDLL(str(compile_and_link(made, folder)))


def _described(array: Array) -> tuple[int, Any]:
    name = "uint8" if array.dtype == np.bool_ else array.dtype.name
    dims = (ctypes.c_int64 * RANK)(*array.shape)
    return TYPES.index(name), dims


def _tensor(array: Array) -> Tensor:
    kind, dims = _described(array)
    return Tensor(kind, 0, array.ndim, dims, array.ctypes.data)


def _pointers(items: Sequence[Tensor]) -> Any:
    kept = [ctypes.pointer(item) for item in items]
    return (ctypes.POINTER(Tensor) * (len(kept) + 1))(*kept)


class RefusedError(Exception):
    """What infer said."""


def run(
    library: ctypes.CDLL, model: ir.Model, left: Leftovers, feed: Mapping[str, Array]
) -> dict[str, Array]:
    """All values that the units make of a feed, in their order."""
    values = {
        name: np.ascontiguousarray(array).reshape(array.shape) for name, array in feed.items()
    }
    for unit in left.units:
        if all(name in values for name in unit.step.inputs):
            outputs = run_unit(library, model, left, unit.step, values)
            values |= dict(zip(unit.step.outputs, outputs, strict=True))
    return values


def run_unit(
    library: ctypes.CDLL, model: ir.Model, left: Leftovers, step: Any, values: Mapping[str, Array]
) -> list[Array]:
    inputs = [values[name] for name in step.inputs]
    constants = [np.ascontiguousarray(left.constants[name]) for name in step.constants]
    read = [Constant(*_constant(each)) for each in constants]
    table = (Constant * max(1, len(read)))(*read)
    made = [Tensor() for _ in step.outputs]
    given = [_tensor(array) for array in inputs]
    which = ctypes.c_int64(step.attributes[0])
    library.test_infer.restype = ctypes.c_char_p
    wrong = library.test_infer(which, _pointers(given), table, _pointers(made))
    if wrong:
        raise RefusedError(wrong.decode())
    outputs = []
    for tensor in made:
        shape = tuple(tensor.dims[: tensor.rank])
        outputs.append(np.full(shape, 77, TYPES[tensor.type]))
        tensor.data = outputs[-1].ctypes.data
    status = library.test_run(which, _pointers(given), table, _pointers(made))
    assert status == 0, status
    kinds = {value.name: value for node in model.graph for value in node.outputs}
    return [
        array.view(np.bool_) if kinds[name].dtype == ir.DataType.BOOL else array
        for name, array in zip(step.outputs, outputs, strict=True)
    ]


def _constant(array: Array) -> tuple[Any, ...]:
    kind = array.astype(np.uint8) if array.dtype == np.bool_ else array
    number, dims = (TYPES.index(kind.dtype.name) if kind.dtype.name in TYPES else 0), None
    dims = (ctypes.c_int64 * RANK)(*array.shape)
    return number, array.ndim, dims, array.ctypes.data, array.size
