"""Loop nests as machine code: one object file of plain C functions, without any runtime."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsecc.backends.bundle.parts import SHARED_CPU
from sparsecc.backends.codegen.prefix import hidden
from sparsecc.backends.codegen.toolchain import (
    Build,
    Unit,
    compile_flags,
    compile_objects,
    is_wasm,
)
from sparsecc.backends.kernels.table import ISAS
from sparsecc.backends.tvm.functions import without_library
from sparsecc.backends.tvm.load import load, tvm_ffi
from sparsecc.errors import BackendError, TargetError, first_line
from sparsecc.targets import Target

KERNELS, RUNTIME = "tvm-kernels.o", "tvm-runtime.o"
"""File names of objects: the kernels, and what they call."""
HERE = Path(__file__).parent
MOST_STACK = 64 << 10
"""Bytes of the buffers inside of a kernel."""
_CPU = 1
_CALLED_FROM_C = 3
"""A calling convention that TVM leaves alone: arguments are those of the function."""
_CPUS: dict[str, dict[str, Any]] = {
    "x86-64-v3": {"mcpu": "x86-64-v3"},
    "x86-64-v4": {"mcpu": "x86-64-v4", "mattr": ["-prefer-256-bit"]},
    "arm64-neon": {"mattr": ["+neon"]},
    "wasm-simd128": {
        "mattr": ["+simd128", "+atomics", "+bulk-memory"],
        "vector-width": 128,
    },
}
"""By instruction set. Atomics are what memory that threads share asks every object for; of a width
that nobody says, TVM says on standard error what it takes."""
_SAME = ("wasm-relaxed", "wasm-simd128")
"""An instruction set whose objects are those of another."""
_TRIPLES = {
    "x86_64-linux-gnu": "x86_64-unknown-linux-gnu",
    "aarch64-linux-gnu": "aarch64-unknown-linux-gnu",
    "aarch64-linux-android": "aarch64-unknown-linux-android",
    "wasm32-freestanding": "wasm32-unknown-unknown",
    "aarch64-ios.13.0": "arm64-apple-ios13.0",
    "aarch64-macos.11.0": "arm64-apple-macosx11.0",
    "x86_64-windows-gnu": "x86_64-pc-windows-gnu",
}
"""LLVM's names of zig's triples."""
_MEMORY = {b"memcpy": b"sccopy", b"memset": b"scfill", b"memmove": b"scmoves"}
"""What LLVM calls for loops that copy or fill, and what ``runtime.c`` calls its own, which is fast
where there is no libc."""
_FAST = ("fast-math-contract",)
"""What floating-point arithmetic may do: join a product with a sum. Sums in another order would
undo what keeps functions exact; schedules say where they may be."""


def machine(target: Target) -> Any:
    """TVM's target for the least processor that a target's files run on.

    Raises:
        TargetError: TVM has no code for it.
    """
    isa = target.isas[0] if target.isas else ""
    cpu = _CPUS.get(dict([_SAME]).get(isa, isa))
    if cpu is None or target.triple not in _TRIPLES:
        raise TargetError(f"TVM has no code for {target.name}", fix="use the backend onnxruntime")
    fields = {"kind": "llvm", "mtriple": _TRIPLES[target.triple], **cpu}
    made = load().target.Target(fields | dict.fromkeys(_FAST, True))
    return made.with_host(made)


def object_of(functions: Mapping[str, Any], target: Any) -> bytes:
    """An object file in which each function is a C symbol.

    Args:
        functions: Kernels as ``nests.py`` makes them, by symbol.
        target: What :func:`machine` gave.

    Raises:
        BackendError: TVM cannot compile one of them.
    """
    tvm = load()
    named = {
        name: without_library(function).with_attr("global_symbol", name)
        for name, function in functions.items()
    }
    try:
        with target, tvm.transform.PassContext(opt_level=3):
            lowered = tvm.transform.Sequential(_passes(tvm, target))(tvm.IRModule(named))
            built = tvm.get_global_func("target.build.llvm")(lowered, target)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernels.o"
            built.write_to_file(str(path), "o")
            return hidden(_with_own_memory(path.read_bytes()))
    except Exception as error:
        raise BackendError(
            f"TVM cannot compile a kernel: {first_line(error)}",
            fix="report it with the model's file",
        ) from error


def _with_own_memory(content: bytes) -> bytes:
    """An object file that calls :data:`_MEMORY`: names of the same length, where names are."""
    for old, new in _MEMORY.items():
        content = re.sub(rb"(?<![\w.])(_?)" + old + rb"(?!\w)", rb"\1" + new, content)
    return content


def _passes(tvm: Any, target: Any) -> list[Any]:
    s_tir, tirx = tvm.s_tir.transform, tvm.tirx.transform
    return [
        tirx.BindTarget(target),
        s_tir.CanonicalizeLoop(),
        s_tir.LowerInitBlock(),
        s_tir.PlanAndUpdateBufferAllocationLocation(),
        s_tir.ConvertBlocksToOpaque(),
        s_tir.CompactBufferAllocation(),
        s_tir.LowerMatchBuffer(),
        s_tir.StmtSimplify(),
        s_tir.LowerOpaqueBlock(),
        tirx.FlattenBuffer(),
        tvm.transform.module_pass(_on_stack, opt_level=0, name="on-stack"),
        tirx.NarrowDataType(32),
        s_tir.LoopPartition(),
        tirx.VectorizeLoop(True),
        s_tir.HoistIfThenElse(),
        tirx.UnrollLoop(),
        s_tir.RenormalizeSplitPattern(),
        tirx.StmtSimplify(),
        tirx.RemoveNoOp(),
        s_tir.RewriteUnsafeSelect(),
        tirx.CommonSubexprElim(),
        tvm.transform.module_pass(_plain_functions, opt_level=0, name="plain-functions"),
        tirx.FP8StorageLegalize(),
        tirx.BF16StorageLegalize(),
        tirx.LowerIntrin(),
    ]


def _on_stack(module: Any, _: Any) -> Any:
    """The same module; buffers inside of its kernels lie on the stack, so they have to fit."""
    tirx, sizes = load().tirx, list[int]()

    def add(each: Any) -> None:
        dims = each.buffer.ty.shape
        known = all(isinstance(dim, tirx.IntImm) for dim in dims)
        size = np.dtype(str(each.buffer.ty.dtype)).itemsize
        sizes.append(math.prod(map(int, dims)) * size if known else MOST_STACK + 1)

    for _variable, function in module.functions_items():
        sizes.clear()
        tvm_ffi().structural_walk(function.body, (tirx.AllocBuffer, add))
        if sum(sizes) > MOST_STACK:
            raise ValueError(f"a kernel keeps more than {MOST_STACK >> 10} KB on the stack")
    return module


def _plain_functions(module: Any, _: Any) -> Any:
    tvm = load()
    return tvm.IRModule({gv: _plain(function) for gv, function in module.functions_items()})


def _plain(function: Any) -> Any:
    """A function of pointers and numbers, in the place of one of buffers."""
    tvm = load()
    pointers = {
        parameter: tvm.tirx.Var(parameter.name, tvm.ir.PointerType(parameter.ty.dtype))
        for parameter in function.params
        if tvm.tirx.is_buffer_var(parameter)
    }

    def pointer(call: Any) -> Any:
        is_data = len(call.args) == 1 and call.args[0] in pointers
        return pointers[call.args[0]] if is_data else call

    body = tvm_ffi().structural_map(function.body, (tvm.ir.Call, pointer))
    for key, value in (("device_id", 0), ("device_type", _CPU)):  # buffers inside: on the stack
        body = tvm.tirx.AttrStmt(tvm.ir.StringImm("default"), key, value, body)
    parameters = [pointers.get(parameter, parameter) for parameter in function.params]
    made = tvm.tirx.PrimFunc(parameters, body, function.ret_type, function.attrs)
    return made.with_attr("calling_conv", _CALLED_FROM_C)


def runtime_object(target: Target) -> bytes:
    """What the kernels call, for the least processor that the target's files run on."""
    source, cpu = "runtime.c", ISAS[target.isas[0]].cpu
    if is_wasm(target.triple):
        cpu = ISAS["wasm-simd128"].cpu + SHARED_CPU
    build = Build(
        name=RUNTIME,
        triple=target.triple,
        sources={source: (HERE / source).read_text(encoding="utf-8")},
        units=(Unit(source, cpu, flags=("-fno-builtin",)),),
        compile_flags=compile_flags(target.triple),
    )
    with tempfile.TemporaryDirectory() as folder:
        (name,) = compile_objects(build, Path(folder))
        return (Path(folder) / name).read_bytes()
