"""The TVM library: Relax's virtual machine drives, our kernels run what they know in regions."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsecc import ops
from sparsecc.aside import aside, write_aside
from sparsecc.backends.bundle.parts import HERE as BUNDLE
from sparsecc.backends.bundle.parts import Kernels, kernels_build
from sparsecc.backends.bundle.plan import plan_source
from sparsecc.backends.bundle.weights import write_weights
from sparsecc.backends.codegen.program import Step
from sparsecc.backends.codegen.toolchain import (
    Build,
    Unit,
    build_cached,
    compile_flags,
    compile_objects,
    run_zig,
)
from sparsecc.backends.kernels.sources import chosen_units, read_sources
from sparsecc.backends.tvm.externs import needed
from sparsecc.backends.tvm.functions import without_library
from sparsecc.backends.tvm.importer import Call, import_nodes
from sparsecc.backends.tvm.load import load
from sparsecc.backends.tvm.lower import legalized
from sparsecc.backends.tvm.objects import RUNTIME, machine, runtime_object
from sparsecc.backends.tvm.products import Registers
from sparsecc.backends.tvm.regions import Region, region_of
from sparsecc.backends.tvm.schedule import registers_of, schedule
from sparsecc.backends.tvm.tuning.tuner import Tuner
from sparsecc.ops import int8
from sparsecc.passes.base import Refusal
from sparsecc.passes.fuse.shapes import Shapes
from sparsecc.passes.regions.unit import Unit as Work
from sparsecc.passes.regions.units import groups, in_order
from sparsecc.targets import Target

HERE = Path(__file__).parent
LIBRARY_NAME, RUN_NAME = "model.so", "run.py"
LINK_FLAGS = ("-shared", "-z", "noexecstack", "--strip-all", "--build-id=none", "--gc-sections")
"""TVM's runtime and the C library are there when the library is loaded."""
LARGEST_WINDOW = 5

_RUN = '''"""Runs this model on Apache TVM's runtime alone: python run.py inputs.npz"""
import pathlib, sys
import numpy, tvm
from tvm import relax

if len(sys.argv) != 2:
    sys.exit("usage: python run.py inputs.npz, with an array for each of " + ", ".join({inputs}))
here = pathlib.Path(__file__).resolve().parent
device = tvm.{device}()
if not device.exist:
    sys.exit("this model is for a GPU, and TVM finds none here")
machine = relax.VirtualMachine(tvm.runtime.load_module(str(here / "{library}")), device)
inputs = numpy.load(sys.argv[1], allow_pickle=False)
outputs = machine["main"](*(tvm.runtime.tensor(inputs[name], device) for name in {inputs}))
for name, output in zip({outputs}, outputs):
    print(name, output.shape, output.dtype, output.numpy().ravel()[:8])
'''


@dataclass(frozen=True)
class Library:
    """What was built.

    Attributes:
        regions: What the kernel library computes.
        notes: Hot loops that no schedule fits.
    """

    regions: tuple[Region, ...]
    notes: tuple[Refusal, ...]


def build_library(
    model: ir.Model,
    units: Sequence[Work],
    nodes: Sequence[ir.Node],
    target: Target,
    name: str,
    folder: Path,
    tuner: Tuner | None = None,
) -> Library:
    """Write ``model.so``, weights inside, and ``run.py``.

    Args:
        model: A rewritten model.
        units: What the kernel library computes, as steps.
        nodes: All other nodes of the main graph; none of them a Constant.
        target: What it is built for.
        name: What names of functions begin with, as ``sparsecc.naming`` allows.
        folder: An empty folder.
        tuner: Finds schedules for what TVM computes; by default they are direct.

    Raises:
        BackendError: TVM is missing or has no code for a node, a shape is not known, or zig failed.
        TargetError: TVM has no code for the target.
    """
    shapes, how = Shapes(model), machine(target)
    regions, order = _partition(model, *_worth(model, units, nodes), shapes, name)
    calls = {region: Call(region.name, region.inputs, region.outputs) for region in regions}
    items = [each if isinstance(each, ir.Node) else calls[each] for each in order]
    ends = model.graph.inputs, model.graph.outputs
    imported = import_nodes(items, *ends, shapes, model.opset_imports[""], f"{name}_same")
    loops = legalized(imported.module, how, "the model")
    module, notes = _scheduled(loops, registers_of(target), tuner)
    with tempfile.TemporaryDirectory() as scratch:
        objects = _objects(regions, target, name, Path(scratch))
        executable = _executable(module, how)
        linked = Path(scratch) / LIBRARY_NAME
        executable.export_library(str(linked), fcompile=linker(Path(scratch)), addons=objects)
        with aside(folder / LIBRARY_NAME) as made_aside:
            shutil.copyfile(linked, made_aside)
    write_run(model, "cpu", folder)
    return Library(tuple(regions), tuple(notes))


def write_run(model: ir.Model, device: str, folder: Path) -> None:
    """Write ``run.py``, which runs the library on a device as TVM names it, ``cpu`` or ``cuda``."""
    ends = model.graph.inputs, model.graph.outputs
    read, made = (tuple(str(value.name) for value in values) for values in ends)
    run = _RUN.format(library=LIBRARY_NAME, inputs=read, outputs=made, device=device)
    write_aside(folder / RUN_NAME, run)


def _worth(
    model: ir.Model, units: Sequence[Work], nodes: Sequence[ir.Node]
) -> tuple[list[Work], list[ir.Node]]:
    """Units in groups that have a layer of the library; the nodes of others are left to TVM."""
    others = [Work((node,), Step("extern", str(node.name), (), ())) for node in nodes]
    kept = [
        group
        for group in groups(model.graph, units, others)
        if any(node.domain in (ops.DOMAIN, int8.DOMAIN) for unit in group for node in unit.nodes)
    ]
    inside = {node for group in kept for unit in group for node in unit.nodes}
    free = [each for each in model.graph if each not in inside and each.op_type != "Constant"]
    return [unit for group in kept for unit in group], free


def _partition(
    model: ir.Model, units: Sequence[Work], nodes: Sequence[ir.Node], shapes: Shapes, name: str
) -> tuple[list[Region], list[ir.Node | Region]]:
    """Regions, and all that there is in an order to run."""
    wanted, readers = needed(model, shapes, units, nodes)
    others = [Work((node,), Step("extern", str(node.name), (), ())) for node in nodes]
    found = groups(model.graph, units, others)
    regions = []
    for at, group in enumerate(found):
        inside = {node for unit in group for node in unit.nodes}
        outside = {
            key: [each for each in by if each and each not in inside] for key, by in readers.items()
        }
        read = [key for key, by in outside.items() if by]
        read += [key for unit in units if unit not in group for key in unit.step.inputs]
        regions.append(region_of(model, group, shapes, f"{name}_region{at}", read))
    whole = {Work(region.nodes, Step("extern", region.name, (), ())): region for region in regions}
    ordered = in_order(model.graph, [*whole, *others])
    every: list[ir.Node | Region] = []
    for unit in ordered:
        if unit in whole:
            every.append(whole[unit])
        elif unit.nodes[0] in wanted:
            every.append(unit.nodes[0])
    return regions, every


def _scheduled(module: Any, registers: Registers, tuner: Tuner | None) -> tuple[Any, list[Refusal]]:
    tvm, notes = load(), []
    functions = [
        (str(variable.name_hint), variable, function)
        for variable, function in module.functions_items()
        if isinstance(function, tvm.tirx.PrimFunc)
    ]
    if tuner is not None:
        tuner.choose([(name, function) for name, _, function in functions])
    for name, variable, function in functions:
        made = (schedule if tuner is None else tuner.schedule)(function, registers)
        notes += [
            Refusal("tvm", name, f"the hot loop {each} has no schedule") for each in made.left
        ]
        module[variable] = without_library(made.function)
    if not any(isinstance(each, tvm.tirx.PrimFunc) for _, each in module.functions_items()):
        one = tvm.te.placeholder((1,), "float32")
        copy = tvm.te.create_prim_func([one, tvm.te.compute((1,), lambda i: one[i])])
        module["copy"] = copy  # without any code, TVM packs what there is by a C compiler
    return module, notes


def _executable(module: Any, how: Any) -> Any:
    tvm = load()
    step = tvm.relax.transform
    passes = [
        step.RewriteDataflowReshape(),
        step.ToNonDataflow(),
        step.RemovePurityChecking(),
        step.CallTIRRewrite(),
        step.StaticPlanBlockMemory(),
        step.LowerAllocTensor(),
        step.KillAfterLastUse(),
        step.LowerRuntimeBuiltin(),
        step.ComputePrimValue(),
        step.VMShapeLower(),
        tvm.transform.module_pass(sizes_in_order, opt_level=0, name="sizes-in-order"),
        step.AttachGlobalSymbol(),
    ]
    pipeline = tvm.transform.Sequential(passes)
    apart = {
        "tirx.disable_storage_rewrite": True
    }  # which joins a tile's rows, too large for a stack
    with how, tvm.transform.PassContext(opt_level=3, config=apart):
        return tvm.relax.build(module, target=how, relax_pipeline=pipeline)


def sizes_in_order(module: Any, _: Any) -> Any:
    """Functions that compute sizes, from a table into other places of it, by place.

    TVM's order is that of addresses in this process.
    """
    tirx = load().tirx

    def place(store: Any) -> int:
        return int(store.indices[0])

    for variable, function in module.functions_items():
        statements = getattr(getattr(function, "body", None), "seq", ())
        if len(statements) > 1 and all(isinstance(each, tirx.BufferStore) for each in statements):
            ordered = tirx.SeqStmt(sorted(statements, key=place))
            module[variable] = function.with_body(ordered)
    return module


def linker(folder: Path) -> Any:
    """The function that TVM calls to link: nothing of the machine it is on takes part."""

    def link(output: str, objects: Sequence[str], options: Sequence[str] | None = None) -> None:
        run_zig(["ld.lld", *LINK_FLAGS, *objects, *(options or ()), "-o", output], folder)

    link.output_format = "so"  # type: ignore[attr-defined]
    return link


def _objects(regions: Sequence[Region], target: Target, name: str, folder: Path) -> list[str]:
    """Objects of the regions: plans, weights, the calls of TVM, and the kernels."""
    sources, parts, lines = read_sources(BUNDLE, HERE), [], [_same(name)]
    for at, region in enumerate(regions):
        weights = write_weights(
            region.whole.constants, region.whole.program.constants, folder / f"weights{at}.bin"
        )
        plan = plan_source(region.whole, weights, name).partition("\nEXPORT ")[0]
        sources[f"plan{at}.c"] = plan + "\n"
        parts.append(Unit(f"plan{at}.c", defines=_renamed(at)))
        lines.append(_wrapper(region.name, at))
    sources["regions.c"] = "\n".join(lines) + "\n"
    kinds = {step.kind for region in regions for step in region.whole.program.steps}
    build = Build(
        name="",
        triple=target.triple,
        sources=sources,
        units=(
            *(*parts, Unit("library.c"), Unit("regions.c")),
            *(chosen_units(target.isas, kinds, LARGEST_WINDOW) if regions else ()),
        ),
        compile_flags=compile_flags(target.triple),
    )
    objects = [str(folder / each) for each in compile_objects(build, folder)]
    (folder / RUNTIME).write_bytes(runtime_object(target))
    objects.append(str(folder / RUNTIME))
    if regions:
        text = "".join(_included(at) for at in range(len(regions)))
        (folder / "weights.s").write_bytes(text.encode())
        run_zig(["cc", "-target", target.triple, "-c", "weights.s", "-o", "weights.o"], folder)
        archive = build_cached(kernels_build(Kernels(target.triple, target.isas)))
        objects += [str(folder / "weights.o"), str(archive)]
    return objects


def _renamed(at: int) -> tuple[str, ...]:
    """What a bundle has once, by another name for each region."""
    return tuple(
        f"{each}={each}_{at}" for each in ("sc_model_plan", "sc_externs", "sc_extern_count")
    )


def _same(name: str) -> str:
    return f"""\
#include "library.h"
extern int __tvm_ffi_{name}_same(void *self, const sc_any *arguments, i32 count, sc_any *result);
SC_EXPORT int __tvm_ffi_{name}_same(void *self, const sc_any *arguments, i32 count, sc_any *result)
{{
  (void)self;
  *result = (sc_any){{0}};
  return sc_library_same(arguments, count);
}}"""


def _wrapper(name: str, at: int) -> str:
    return f"""
SC_HIDDEN extern const sc_bundle_plan sc_model_plan_{at};
SC_HIDDEN extern const char sc_weights_{at}[], sc_weights_end_{at}[];
static int make_{at}(void **out);
static sc_library_region region_{at} = {{
  .plan = &sc_model_plan_{at}, .weights = sc_weights_{at}, .weights_end = sc_weights_end_{at},
  .make = make_{at},
}};
static int make_{at}(void **out) {{ return sc_library_make(&region_{at}, out); }}
extern int __tvm_ffi_{name}(void *self, const sc_any *arguments, i32 count, sc_any *result);
SC_EXPORT int __tvm_ffi_{name}(void *self, const sc_any *arguments, i32 count, sc_any *result)
{{
  (void)self;
  *result = (sc_any){{0}};
  return sc_library_call(&region_{at}, arguments, count);
}}"""


def _included(at: int) -> str:
    return f"""\
.section .rodata.weights{at}, "a", %progbits
.balign 64
.globl sc_weights_{at}
.hidden sc_weights_{at}
sc_weights_{at}:
.incbin "weights{at}.bin"
.globl sc_weights_end_{at}
.hidden sc_weights_end_{at}
sc_weights_end_{at}:
.byte 0
"""
