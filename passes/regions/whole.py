"""A whole model as one region: for artifacts in which no runtime calls the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.backends.bundle.whole import Port, Whole
from sparsecc.backends.codegen.program import Program
from sparsecc.backends.kernels.table import RANK
from sparsecc.backends.tvm.externs import externs_of
from sparsecc.backends.tvm.tuning.tuner import Tuner
from sparsecc.errors import BackendError
from sparsecc.passes import edit
from sparsecc.passes.base import Context
from sparsecc.passes.regions.chains import chained
from sparsecc.passes.regions.form import FormRegions
from sparsecc.passes.regions.lanes import lay_out
from sparsecc.passes.regions.unit import Unit
from sparsecc.passes.regions.units import in_order, units_of
from sparsecc.targets import Target

DTYPES = frozenset({"float32", "int32", "int64", "uint8", "int8", "bool"})
"""Types of values between steps."""
_BYTES_IN_LANES = ("int8_quantize", "int8_conv", "int8_depthwise", "int8_maxpool", "int8_add")
"""Steps whose output lies as steps of bytes alone read it."""


def whole_of(
    model: ir.Model, target: Target, ctx: Context | None = None, tuner: Tuner | None = None
) -> Whole:
    """The program of a rewritten model; TVM computes what the library has no step for.

    Args:
        model: Rewritten for a target that stands alone; it is left as it is.
        target: What it is compiled for.
        ctx: Told why nodes have no step of the library.
        tuner: Finds schedules for what TVM computes; by default they are direct.

    Raises:
        BackendError: A value has a type or a form that no bundle has, or there is neither a step
            nor generated code for a node; names it.
    """
    graph = model.graph
    inputs, outputs = ends_of(model)
    units, rest = parts_of(model, target, ctx)
    left = externs_of(model, units, rest, target, tuner)
    ordered = in_order(graph, [*units, *left.units])
    _check_values(ordered)
    _check_outputs(graph, ordered)
    if ctx is not None:
        ctx.refusals += [note for note in left.notes if note not in ctx.refusals]
    names = tuple(port.name for port in outputs)
    steps = lay_out([unit.step for unit in ordered], names)
    program = Program(tuple(port.name for port in inputs), names, steps)
    constants = _constants(graph, program) | dict(left.constants)
    return Whole(inputs, outputs, program, constants, left.externs, left.objects)


def parts_of(
    model: ir.Model, target: Target, ctx: Context | None
) -> tuple[list[Unit], list[ir.Node]]:
    """What the library has steps for, and all other nodes; `ctx` is told why."""
    units, reasons = units_of(model)
    if ctx is not None:
        for node, reason in reasons.items():
            ctx.refuse(FormRegions.name, node, reason)
    return chained(units, target), [node for node in model.graph if node in reasons]


def ends_of(model: ir.Model) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of a model.

    Raises:
        BackendError: One has a type that no bundle has, or no known rank.
    """
    graph = model.graph
    return tuple(map(_port, graph.inputs)), tuple(map(_port, graph.outputs))


def _port(value: ir.Value) -> Port:
    """An input or output of the model."""
    name, dtype = str(value.name), _dtype(value)
    if dtype not in DTYPES or value.shape is None:
        what = f"is {dtype}" if value.shape is not None else "has no known rank"
        raise BackendError(
            f"{name!r} {what}: inputs and outputs of a bundle are tensors of {_listed()}",
            node=name,
            fix="convert it to one of them in the model, or compile for ONNX Runtime",
        )
    dims = [
        dim if isinstance(dim, int) else _dim_name(dim.value, f"{name}_{axis}")
        for axis, dim in enumerate(value.shape)
    ]
    return Port(name, dtype, tuple(dims))


def _dim_name(given: str | None, own: str) -> str:
    """The name of an open dimension: those of one name are one size, those of none any."""
    return own if given in (None, "", "?", "None") else str(given)


def _dtype(value: ir.Value) -> str:
    if value.dtype is None:
        return "of no known type"
    try:
        return value.dtype.numpy().name
    except TypeError:
        return str(value.dtype).lower()


def _listed() -> str:
    return ", ".join(sorted(DTYPES))


def _check_outputs(graph: ir.Graph, ordered: Sequence[Unit]) -> None:
    """That every output is made by a step, once, and row-major."""
    kinds = {name: unit.step.kind for unit in ordered for name in unit.step.outputs}
    for at, value in enumerate(graph.outputs):
        if value.name not in kinds or value in graph.outputs[:at]:
            raise BackendError(
                f"the output {value.name!r} is an input, a constant or another output unchanged",
                node=value.name,
                fix="take it out of the outputs of the model",
            )
        if kinds[str(value.name)] in _BYTES_IN_LANES:
            raise _of_bytes("the model returns", value, value.producer())


def _check_values(ordered: Sequence[Unit]) -> None:
    """That values between steps have no more dimensions than regions do, and plain readers."""
    kinds = {name: unit.step.kind for unit in ordered for name in unit.step.outputs}
    for unit in ordered:
        for node in unit.nodes:
            for value in node.outputs:
                rank = 0 if value.shape is None else len(value.shape)
                if value.name in unit.step.outputs and rank > RANK:
                    raise BackendError(
                        f"{value.name!r} has {rank} dimensions: in a bundle there are {RANK}",
                        node=node.name,
                        fix="merge some of them in the model, or compile for ONNX Runtime",
                    )
            for read in node.inputs if unit.step.kind == "extern" else ():
                if read is not None and kinds.get(str(read.name)) in _BYTES_IN_LANES:
                    raise _of_bytes(f"{node.op_type} reads", read, node)


def _of_bytes(who: str, value: ir.Value, node: ir.Node | None) -> BackendError:
    return BackendError(
        f"{who} {value.name!r}, bytes that lie as eight-bit steps of the library alone read them",
        node=None if node is None else node.name,
        fix="leave the layers beside it in float32, or compile for ONNX Runtime",
    )


def _constants(graph: ir.Graph, program: Program) -> dict[str, NDArray[Any]]:
    """The arrays of the model that the program reads."""
    values = dict(graph.initializers) | {
        str(value.name): value
        for node in graph
        if node.op_type == "Constant"
        for value in node.outputs
    }
    found = {name: edit.constant(values[name]) for name in program.constants if name in values}
    return {name: array for name, array in found.items() if array is not None}
