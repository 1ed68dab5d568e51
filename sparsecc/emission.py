"""From a rewritten model to the files of an artifact: one way for each backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from sparsecc.backends.bundle.build import build_bundle
from sparsecc.backends.bundle.whole import Port
from sparsecc.backends.cuda.load import NVCC_PINS
from sparsecc.backends.mobile.arrange import arrange
from sparsecc.backends.onnxruntime.emit import emit
from sparsecc.backends.onnxruntime.generate import patterns
from sparsecc.backends.onnxruntime.lower import lower
from sparsecc.backends.tvm.cuda.library import build_cuda_library
from sparsecc.backends.tvm.cuda.parts import PASS_NAME as CUDA_PASS
from sparsecc.backends.tvm.library import build_library
from sparsecc.backends.tvm.tuning.tuner import Tuner
from sparsecc.backends.web.build import write_demo, write_module
from sparsecc.passes.base import Context, Refusal, run
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.regions.form import FormRegions, Region
from sparsecc.passes.regions.whole import ends_of, parts_of, whole_of
from sparsecc.passes.weights.to_dense import twin_of
from sparsecc.progress import Progress
from sparsecc.report.rows import TVM_KERNEL
from sparsecc.request import Request

TVM = ("apache-tvm", "apache-tvm-ffi")
WHOLE = "Whole"
"""What the one region of a model without ONNX Runtime is called in a report."""


@dataclass(frozen=True)
class Emitted:
    """What was written.

    Attributes:
        regions: Parts of the model that the library runs in one call.
        library: File name of the custom-op library for ONNX Runtime, if there is one.
        inputs: Of a model without ONNX Runtime.
        outputs: Likewise.
        tools: Packages that took part beside those that always do.
        kernels: What runs sparse layers and attentions, by their names, where that is another than
            was planned: on a GPU.
    """

    regions: tuple[Region, ...]
    library: str | None = None
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    tools: tuple[str, ...] = ()
    kernels: Mapping[str, str] = field(default_factory=dict)


Emitter = Callable[[ir.Model, Request, Path, Context, Progress], Emitted]
"""Writes a rewritten model into an empty folder; the model may change, its function does not.
Tuning tells how far it is.

Raises BackendError where a tool fails, or a node cannot be had in this backend; names it.
"""


def onnxruntime(
    graph: ir.Model, request: Request, folder: Path, ctx: Context, progress: Progress
) -> Emitted:
    """The model as an ONNX file, and the library of its ops."""
    generated = list(patterns(graph, request.target))
    regions = FormRegions(request.target)
    run([regions], graph, ctx)
    lower(graph)
    return Emitted(tuple(regions.formed), emit(graph, request.target, folder, generated))


def bundle(
    graph: ir.Model, request: Request, folder: Path, ctx: Context, progress: Progress
) -> Emitted:
    """The whole model as one region, in a library of its own."""
    tuner = _tuner(request, progress)
    whole = whole_of(graph, request.target, ctx, tuner)
    build_bundle(whole, request.target, request.name, folder)
    arrange(folder, request.target, request.name, whole.inputs[0])
    _kept(tuner, folder, ctx)
    if request.target.family == "wasm":
        write_module(folder, request.name, whole.inputs, whole.outputs)
        twin = twin_of(graph)
        run([DeadCode()], twin, ctx)  # packed weights, which nobody reads any more
        write_demo(folder, request.name, whole.inputs, twin)
    outside = {each.node for each in ctx.refusals if each.pass_name == FormRegions.name}
    names = (str(node.name) for node in graph.graph if node.op_type != "Constant")
    region = Region(
        WHOLE,
        len(whole.program.steps),
        tuple(name for name in names if name not in outside),
    )
    tools = TVM if whole.externs else ()
    return Emitted((region,), inputs=whole.inputs, outputs=whole.outputs, tools=tools)


def tvm(
    graph: ir.Model, request: Request, folder: Path, ctx: Context, progress: Progress
) -> Emitted:
    """A library for TVM's virtual machine, which calls ours for what it has steps for."""
    if request.target.family == "cuda":
        return _tvm_on_gpu(graph, request, folder, ctx)
    units, rest = parts_of(graph, request.target, ctx)
    tuner = _tuner(request, progress)
    library = build_library(graph, units, rest, request.target, request.name, folder, tuner)
    _kept(tuner, folder, ctx)
    ctx.refusals += [note for note in library.notes if note not in ctx.refusals]
    regions = tuple(
        Region(each.name, len(each.whole.program.steps), tuple(str(n.name) for n in each.nodes))
        for each in library.regions
    )
    inputs, outputs = ends_of(graph)
    return Emitted(regions, inputs=inputs, outputs=outputs, tools=TVM)


def _tvm_on_gpu(graph: ir.Model, request: Request, folder: Path, ctx: Context) -> Emitted:
    """A library that computes on a GPU: our kernels what is sparse, TVM's the rest."""
    library = build_cuda_library(graph, request.target, request.name, folder, ctx.largest)
    for name, reason in library.parts.reasons.items():
        ctx.refusals.append(Refusal(CUDA_PASS, name, reason))
    if library.captured:
        part = f"{library.captured} of {library.launches} steps are recorded as CUDA graphs"
        ctx.refusals.append(Refusal(CUDA_PASS, "", part + ", all but those at inputs and outputs"))
    kernels = {name: each.kernel for name, each in library.parts.regions.items()}
    regions = tuple(
        Region(each.name, len(each.recipe.steps), (name,))
        for name, each in library.parts.regions.items()
    )
    inputs, outputs = ends_of(graph)
    kernels |= dict.fromkeys(library.parts.reasons, TVM_KERNEL)
    tools = (*TVM, *NVCC_PINS, *(("triton",) if regions else ()))
    return Emitted(regions, inputs=inputs, outputs=outputs, tools=tools, kernels=kernels)


def _tuner(request: Request, progress: Progress) -> Tuner | None:
    if request.tune is None:
        return None
    return Tuner(request.target, request.tune, request.seed, progress)


def _kept(tuner: Tuner | None, folder: Path, ctx: Context) -> None:
    """Write the schedules that were used beside the library, and say which were not."""
    if tuner is not None:
        tuner.save(folder)
        ctx.refusals += [note for note in tuner.notes if note not in ctx.refusals]


EMITTERS: dict[str, Emitter] = {"onnxruntime": onnxruntime, "bundle": bundle, "tvm": tvm}
"""By ``Target.backend``."""
