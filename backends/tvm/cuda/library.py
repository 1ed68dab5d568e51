"""The TVM library of a GPU: Relax's virtual machine on the host, all arithmetic on the device."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsecc.aside import aside
from sparsecc.backends.codegen.toolchain import run_zig
from sparsecc.backends.cuda.kernel import Arch
from sparsecc.backends.tvm.cuda.compiler import cubin_of
from sparsecc.backends.tvm.cuda.launch import kernels_of, launcher
from sparsecc.backends.tvm.cuda.modules import Entry, with_machine_code
from sparsecc.backends.tvm.cuda.parts import PLACE, UNKNOWN, Parts, parts_of
from sparsecc.backends.tvm.cuda.regions import Region, fixed_sizes
from sparsecc.backends.tvm.externs import needed
from sparsecc.backends.tvm.importer import Made, dtype_of, import_nodes
from sparsecc.backends.tvm.library import LIBRARY_NAME, linker, sizes_in_order, write_run
from sparsecc.backends.tvm.load import load, tvm_ffi
from sparsecc.errors import BackendError, first_line
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.targets import Target
from sparsecc.targets.cuda import arch_of_target

HOST = "x86_64-linux-gnu"
"""Triple of the machine that a GPU is in."""
_HOST = {"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": "x86-64"}
CAPTURED = "cuda_graph_capture"
"""In names of functions whose launches TVM's runtime records once, and then starts as one."""
_CONFIG = {"relax.backend.use_cuda_graph": True}
_INCLUDED = """\
.section .rodata.modules, "a", %progbits
.balign 64
.globl __tvm_ffi__library_bin
__tvm_ffi__library_bin:
.incbin "modules.bin"
"""


@dataclass(frozen=True)
class CudaLibrary:
    """What was built.

    Attributes:
        parts: What our kernels compute, and why they do not compute the rest.
        captured: Functions that start kernels whose launches are recorded as graphs.
        launches: All such functions of a run.
    """

    parts: Parts
    captured: int
    launches: int


def build_cuda_library(
    model: ir.Model, target: Target, name: str, folder: Path, largest: Mapping[str, float] = UNKNOWN
) -> CudaLibrary:
    """Write ``model.so``, weights and machine code for the GPU inside, and ``run.py``.

    Args:
        model: A rewritten model.
        target: What it is built for.
        name: What names of functions begin with, as ``sparsecc.naming`` allows.
        folder: An empty folder.
        largest: As :func:`~sparsecc.backends.tvm.cuda.parts.parts_of` takes it.

    Raises:
        BackendError: TVM, Triton or nvcc is missing or refuses a node.
    """
    parts, module = lowered(model, target, name, largest)
    arch = arch_of_target(target)
    how = machine(arch)
    module = finished(module, how)
    executable = _built(module, how)
    kernels = kernels_of(list(parts.regions.values()), arch)
    with tempfile.TemporaryDirectory() as scratch:
        linked = Path(scratch) / LIBRARY_NAME
        executable.export_library(
            str(linked),
            fcompile=linker(Path(scratch)),
            fpack_imports=partial(_packed, partial(cubin_of, arch=arch), kernels),
            workspace_dir=scratch,
        )
        with aside(folder / LIBRARY_NAME) as made_aside:
            shutil.copyfile(linked, made_aside)
    write_run(model, "cuda", folder)
    return CudaLibrary(parts, *_launches(module))


def lowered(
    model: ir.Model, target: Target, name: str, largest: Mapping[str, float] = UNKNOWN
) -> tuple[Parts, Any]:
    """A rewritten model as a Relax module that calls functions which start our kernels.

    Raises:
        BackendError: TVM has no code for a node, or a size has to equal another that it may not.
    """
    parts, arch = parts_of(model, name, target, largest), arch_of_target(target)
    graph, shapes = parts.model.graph, Shapes(parts.model)
    nodes = [each for each in graph if each.op_type != "Constant"]
    wanted, _ = needed(parts.model, shapes, (), nodes)
    items = [
        _made(each, parts.regions[str(each.name)], shapes, arch) if each.domain == PLACE else each
        for each in nodes
        if each in wanted
    ]
    ends, opset = (graph.inputs, graph.outputs), parts.model.opset_imports[""]
    imported = import_nodes(items, *ends, shapes, opset)
    if imported.equal:
        one, other = imported.equal[0]
        raise BackendError(
            f"two open sizes have to be equal, and nothing proves it: {one} and {other}",
            fix="export the model with fixed sizes",
        )
    return parts, imported.module


def _made(node: ir.Node, region: Region, shapes: Shapes, arch: Arch) -> Made:
    """A region in the place of its node."""
    (output,) = node.outputs
    result = dtype_of(output), fixed_sizes(output, shapes)

    def write(builder: Any, operands: list[Any]) -> list[Any]:
        function = builder.add_func(launcher(region, arch), region.name)
        return [region.write(builder, function, operands, result)]

    inputs = tuple(each for each in node.inputs if each is not None)
    return Made(inputs, (output,), write)


def machine(arch: Arch) -> Any:
    """TVM's target for an architecture, with a host that any x86-64 is."""
    return load().target.Target({"kind": "cuda", "arch": arch, "host": _HOST})


def finished(module: Any, how: Any) -> Any:
    """A module as the virtual machine runs it: fused, scheduled, its memory planned.

    Raises:
        BackendError: TVM cannot.
    """
    tvm = load()
    step, stages = tvm.relax.transform, tvm.relax.backend.cuda.pipeline
    passes = [
        step.DecomposeOpsForInference(),
        step.CanonicalizeBindings(),
        step.FoldConstant(),
        *stages.library_dispatch_passes(how),
        *stages.legalize_passes(how),
        step.DeadCodeElimination(),
        *stages.dataflow_lower_passes(how),
        *stages.finalize_passes(how),
    ]
    if not any(isinstance(each, tvm.tirx.PrimFunc) for _, each in module.functions_items()):
        nothing = tvm.tirx.PrimFunc([], tvm.tirx.Evaluate(0))
        module["nothing"] = nothing.with_attrs(
            {"tirx.is_scheduled": True, "global_symbol": "nothing"}
        )
    try:
        with how, tvm.transform.PassContext(opt_level=3, config=_CONFIG):
            return tvm.transform.Sequential(passes)(module)
    except Exception as error:
        raise _refused(error) from error


def _built(module: Any, how: Any) -> Any:
    in_order = load().transform.module_pass(sizes_in_order, opt_level=0, name="sizes-in-order")
    try:
        with how, load().transform.PassContext(opt_level=3):
            return load().relax.build(module, target=how, relax_pipeline=in_order)
    except Exception as error:
        raise _refused(error) from error


def _refused(error: Exception) -> BackendError:
    return BackendError(
        f"TVM cannot make kernels of the model: {first_line(error)}",
        fix="export it with fixed sizes, or compile for another target",
    )


def _packed(
    compiled: Callable[[str], bytes],
    kernels: Sequence[tuple[Entry, bytes]],
    library: Any,
    _system: bool,
    _prefix: str,
    folder: str,
) -> str:
    """What TVM calls to pack the modules that a library holds: an object file."""
    pack = tvm_ffi().get_global_func("runtime.ModulePackImportsToTensor")
    content = with_machine_code(pack(library).numpy().tobytes(), compiled, kernels)
    (Path(folder) / "modules.bin").write_bytes(content)
    (Path(folder) / "modules.s").write_text(_INCLUDED, encoding="utf-8")
    run_zig(["cc", "-target", HOST, "-c", "modules.s", "-o", "modules.o"], Path(folder))
    return str(Path(folder) / "modules.o")


def _launches(module: Any) -> tuple[int, int]:
    """Calls of functions that start kernels: those that are recorded as a graph, and all."""
    tvm = load()
    captured = every = 0
    for variable, function in module.functions_items():
        if not isinstance(function, tvm.relax.Function):
            continue
        found: list[Any] = []
        tvm.relax.analysis.post_order_visit(function.body, found.append)
        count = sum(
            isinstance(each, tvm.ir.Call) and isinstance(each.op, tvm.ir.GlobalVar)
            for each in found
        )
        every += count
        captured += count if CAPTURED in str(variable.name_hint) else 0
    return captured, every
