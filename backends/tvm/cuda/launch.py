"""Functions of the host that start kernels: what a recipe says, with its numbers inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsecc.backends.cuda.build import WARP, Binary, build
from sparsecc.backends.cuda.kernel import ALIGNED, Arch, Kernel
from sparsecc.backends.cuda.recipe import Step
from sparsecc.backends.tvm.cuda.modules import Entry
from sparsecc.backends.tvm.cuda.regions import Region
from sparsecc.backends.tvm.load import load
from sparsecc.errors import BackendError

TYPES = {"i32": "int32", "i64": "int64", "fp32": "float32"}
"""TVM's name of the type of a number."""
UNUSED = ("int64", "int64")
"""Parameters behind those of a Triton function: memory that none of our kernels has, null."""
_AXES = ("x", "y", "z")
_SHARED = "tirx.use_dyn_shared_memory"
_OPAQUE = 8
"""TVM's number for a function that it fuses with nothing."""
_MOST_ACROSS, _MOST_DOWN = 2**31 - 1, 2**16 - 1
"""Programs along the first axis of a grid, and along the others."""


def launcher(region: Region, arch: Arch) -> Any:
    """A function over the region's tensors, in their order, that starts its kernels.

    Raises:
        BackendError: A kernel cannot be built, or its grid is larger than a GPU's.
    """
    tirx = load().tirx
    buffers = {
        name: tirx.decl_buffer(shape, dtype, name=name)
        for name, (dtype, shape) in region.tensors.items()
    }
    calls = [_call(region.name, step, buffers, arch) for step in region.recipe.steps]
    body = calls[0] if len(calls) == 1 else tirx.SeqStmt(calls)
    attributes = {"tirx.is_scheduled": True, "tirx.noalias": True, "op_pattern": _OPAQUE}
    return tirx.PrimFunc(list(buffers.values()), body).with_attrs(attributes)


def kernels_of(regions: Sequence[Region], arch: Arch) -> list[tuple[Entry, bytes]]:
    """Every kernel that regions start, once, with its machine code.

    Raises:
        BackendError: One cannot be built.
    """
    steps = {step.kernel.name: step for each in regions for step in each.recipe.steps}
    return [
        (
            _entry(step.kernel, build(step.kernel, arch), len(step.grid)),
            build(step.kernel, arch).code,
        )
        for _, step in sorted(steps.items())
    ]


def _call(where: str, step: Step, buffers: dict[str, Any], arch: Arch) -> Any:
    tirx, made = load().tirx, build(step.kernel, arch)
    _check_grid(where, step)
    given: list[Any] = []
    for name, kind in step.kernel.arguments.items():
        value = step.given[name]
        given.append(buffers[value].data if isinstance(value, str) else _number(value, kind))
    given += [tirx.IntImm(kind, 0) for kind in UNUSED]
    sizes = [*step.grid, WARP * made.warps, *([made.shared] if made.shared else [])]
    given += [tirx.IntImm("int64", size) for size in sizes]
    return tirx.Evaluate(tirx.call_packed(made.symbol, *given))


def _entry(kernel: Kernel, made: Binary, axes: int) -> Entry:
    kinds = (kind.removesuffix(ALIGNED) for kind in kernel.arguments.values())
    types = tuple("handle" if kind.startswith("*") else TYPES[kind] for kind in kinds)
    tags = [*(f"blockIdx.{axis}" for axis in _AXES[:axes]), "threadIdx.x"]
    return Entry(made.symbol, types + UNUSED, (*tags, *([_SHARED] if made.shared else [])))


def _number(value: float, kind: str) -> Any:
    tirx, dtype = load().tirx, TYPES[kind.removesuffix(ALIGNED)]
    if dtype == "float32":
        return tirx.FloatImm(dtype, float(value))
    return tirx.IntImm(dtype, int(value))


def _check_grid(where: str, step: Step) -> None:
    first, *others = step.grid
    if not 0 < first <= _MOST_ACROSS or not all(0 < each <= _MOST_DOWN for each in others):
        raise BackendError(
            f"{where}: {step.kernel.name} over a grid of {list(step.grid)} programs",
            fix="use smaller batches",
        )
