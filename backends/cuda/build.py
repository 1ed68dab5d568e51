"""Kernels built ahead of time: machine code for an architecture, on a machine without a GPU."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsecc.backends.codegen.cache import is_kept, keep, place_of
from sparsecc.backends.cuda.kernel import ALIGNED, CONSTANT, Arch, Kernel
from sparsecc.backends.cuda.load import PIN, function, load_pinned
from sparsecc.backends.cuda.nvcc import compiled, made_of
from sparsecc.backends.cuda.table import KERNELS
from sparsecc.errors import BackendError, first_line

WARP = 32
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")


@dataclass(frozen=True)
class Binary:
    """A kernel's machine code, and what a launch of it has to know.

    It is launched over ``32 · warps`` threads with ``shared`` bytes of dynamic shared memory. Its
    parameters are those of the row, in order, and two null pointers behind them: memory for
    scratch and for profiles, which none of our kernels has. CUDA C++ does not read the two.

    Attributes:
        symbol: Name in the code.
        code: A cubin.
        warps: Of a program.
        shared: Bytes of dynamic shared memory.
        registers: Of a thread.
        stack: Bytes of a thread's own memory: what registers were spilled to.
    """

    symbol: str
    code: bytes
    warps: int
    shared: int
    registers: int
    stack: int


def build(kernel: Kernel, arch: Arch) -> Binary:
    """Build a kernel for an architecture, or take what was built before.

    The same row gives the same bytes.

    Raises:
        TargetError: The kernel has no launch for the architecture.
        BackendError: Triton or nvcc is missing, of another version, or refuses the function.
    """
    kernel.launch(arch)
    key = _key(kernel, arch)
    code, facts = (place_of(key, f"{kernel.name}.{end}") for end in ("cubin", "json"))
    if not (is_kept(code) and is_kept(facts)):
        with tempfile.TemporaryDirectory() as folder:
            made = _BUILDS[kernel.language](kernel, arch, Path(folder))
            for place, content in (
                (code, made.code),
                (facts, json.dumps({**asdict(made), "code": None}).encode()),
            ):
                scratch = Path(folder) / place.name
                scratch.write_bytes(content)
                keep(scratch, place)
    return Binary(**{**json.loads(facts.read_text()), "code": code.read_bytes()})


def signature(kernel: Kernel, arch: Arch) -> tuple[dict[str, str], dict[tuple[int], Any]]:
    """Types of a kernel's arguments and which of them are multiples of 16, as Triton has them."""
    names = function(kernel.module, kernel.function).arg_names
    constants = kernel.constants_on(arch)
    if list(names) != [*kernel.arguments, *(name for name in names if name in constants)]:
        raise AssertionError(f"the row of {kernel.name} has other arguments than its function")
    types = {name: kernel.arguments.get(name, CONSTANT) for name in names}
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, kind in enumerate(types.values())
        if kind.startswith("*") or kind.endswith(ALIGNED)
    }
    return {name: kind.removesuffix(ALIGNED) for name, kind in types.items()}, aligned


def _with_nvcc(kernel: Kernel, arch: Arch, folder: Path) -> Binary:
    launch = kernel.launch(arch)
    code, registers, stack = compiled(kernel, arch, folder)
    return Binary(kernel.symbol, code, launch.warps, launch.shared, registers, stack)


def _with_triton(kernel: Kernel, arch: Arch, folder: Path) -> Binary:
    triton = load_pinned()
    launch = kernel.launch(arch)
    types, aligned = signature(kernel, arch)
    source = triton.compiler.ASTSource(
        _named(function(kernel.module, kernel.function), kernel.symbol),
        signature=types,
        constexprs=kernel.constants_on(arch),
        attrs=aligned,
    )
    target = triton.backends.compiler.GPUTarget("cuda", int(arch.removeprefix("sm_")), WARP)
    options = {"num_warps": launch.warps, "num_stages": launch.stages, "enable_fp_fusion": True}
    knobs = triton.knobs
    with knobs.cache.scope(), knobs.compilation.scope():
        knobs.cache.dir = str(folder / "triton")
        knobs.compilation.disable_line_info = True  # it would hold the paths of this machine
        try:
            made = triton.compile(source, target=target, options=options)
        except Exception as error:  # its errors have no common class
            raise BackendError(
                f"triton cannot build {kernel.name} for {arch}: {first_line(error)}",
                fix="pip install --force-reinstall triton==" + PIN,
            ) from error
    if made.metadata.global_scratch_size:
        raise AssertionError(f"{kernel.name} wants scratch memory, which launches do not give")
    registers, stack = _usage(triton, made.kernel, folder)
    return Binary(made.name, made.kernel, launch.warps, made.metadata.shared, registers, stack)


_BUILDS = {"triton": _with_triton, "cuda": _with_nvcc}


def _named(function: Any, symbol: str) -> Any:
    """A Triton function that is called so in what is made of it."""
    named = copy.copy(function)
    named._repr = lambda _: symbol
    return named


def _usage(triton: Any, code: bytes, folder: Path) -> tuple[int, int]:
    """Registers of a thread and bytes of its stack, as the code says."""
    file = folder / "kernel.cubin"
    file.write_bytes(code)
    tool = triton.knobs.nvidia.cuobjdump.path
    said = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True)
    found = _USAGE.search(said.stdout)
    if found is None:
        raise BackendError(
            f"{tool} does not say what a kernel needs", fix=f"pip install triton=={PIN}"
        )
    return int(found[1]), int(found[2])


def _key(kernel: Kernel, arch: Arch) -> str:
    """A hash of all that a build is made of."""
    if kernel.language == "cuda":
        return _hash(made_of(kernel, arch), arch)
    load_pinned()
    source = function(kernel.module, kernel.function).cache_key  # of what it calls, too
    launch = kernel.launch(arch)
    how = (kernel.arguments, kernel.constants_on(arch), launch.warps, launch.stages, PIN)
    return _hash((source, how, kernel.symbol), arch)


def _hash(what: Any, arch: Arch) -> str:
    return hashlib.sha256(repr((what, arch)).encode()).hexdigest()[:32]


def main() -> None:
    """Print what every kernel needs on every architecture, beside its bounds in the table."""
    for kernel in KERNELS.values():
        for arch, launch in kernel.launches.items():
            made = build(kernel, arch)
            print(
                f"{kernel.name} {arch}: {made.registers} registers ({launch.registers}), "
                f"{made.shared} bytes shared ({launch.shared}), stack {made.stack}, "
                f"{len(made.code)} bytes",
                flush=True,
            )


if __name__ == "__main__":
    main()
