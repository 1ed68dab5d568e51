"""Builds a bundle: weights, header, libraries and a program, from a model that is one region.

What models share, kernels and the calls behind the C API, is compiled once and kept as an archive;
a model adds its plan, its table of step kinds, and the functions it brings. A link takes what the
plan reaches and nothing else.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsecc.aside import write_aside
from sparsecc.backends.bundle.localize import localize
from sparsecc.backends.bundle.plan import check_name, header, plan_source
from sparsecc.backends.bundle.weights import NAME as WEIGHTS_NAME
from sparsecc.backends.bundle.weights import write_weights
from sparsecc.backends.bundle.whole import Whole
from sparsecc.backends.codegen.systems import ARCHIVE, ELF_SHARED, filled
from sparsecc.backends.codegen.toolchain import (
    OBJECT_FLAGS,
    WASM_FLAGS,
    Build,
    Unit,
    archive_flags,
    build_cached,
    compile_flags,
    compile_objects,
    is_wasm,
    run_zig,
)
from sparsecc.backends.kernels.sources import chosen_units, read_sources, units
from sparsecc.errors import ArtifactError, BackendError
from sparsecc.targets import Target
from sparsecc.targets.base import Triple

HERE = Path(__file__).parent
WEB = HERE.parent / "web"
WEB_UNITS = ("memory.c", "threads.c")
WEB_NAME = "model"
"""What the functions of a WebAssembly module begin with, whatever the model is called."""
MODULES = {"wasm-simd128": "model", "wasm-relaxed": "model.relaxed"}
"""Names of modules by instruction set: a page chooses between files, not inside of one. Of each
there is one for a single thread, ``.wasm``, and one whose memory threads share,
``.threads.wasm``."""
WASM_BASE, SHARED_CPU = "lime1", "+atomics+bulk_memory"
SHARED_MEMORY_FLAGS = ("--shared-memory", "--import-memory", f"--max-memory={1 << 32}")
"""The page makes the memory; every thread has an instance of the module, and a stack of its own."""
WINDOWED = ("conv", "chain")
"""Step kinds with packed weights of convolutions, of :data:`PACKED` constants each."""
PACKED, SHAPE = 5, 3

CALLS = ("inputs", "outputs", "create", "plan", "run", "error", "destroy")

RUNNER_FLAGS = (
    *("-O2", "-g0", "-std=gnu11", "-fno-sanitize=all", "-fno-ident"),
    *("-Wall", "-Wextra", "-Werror"),
)
PROGRAM_FLAGS = ("-static", "-s", "-Wl,--gc-sections", "-Wl,--build-id=none")


@dataclass(frozen=True)
class Kernels:
    """Which kernels a file of a bundle has.

    Attributes:
        triple: zig's target triple.
        isas: Instruction sets of which one is chosen when the model is made.
        shared: Whether threads share the memory of a WebAssembly module.
    """

    triple: Triple
    isas: tuple[str, ...]
    shared: bool = False

    def built(self, parts: Sequence[Unit]) -> tuple[Unit, ...]:
        """Units as they are compiled for these kernels."""
        if not self.shared:
            return tuple(parts)
        return tuple(
            dataclasses.replace(unit, cpu=(unit.cpu or WASM_BASE) + SHARED_CPU) for unit in parts
        )


@dataclass(frozen=True)
class Parts:
    """What a file of a bundle is linked from.

    Attributes:
        objects: File names in the folder of the link, and the archive of the kernels.
        triple: zig's target triple.
        name: What C functions begin with.
    """

    objects: tuple[str, ...]
    triple: Triple
    name: str


Link = Callable[[Parts, str, Path], None]
"""Makes a file of this name in a folder."""


def build_bundle(whole: Whole, target: Target, name: str, folder: Path) -> list[Path]:
    """Build the bundle of a model.

    Args:
        whole: The model.
        target: Hardware to build for; it need not be this machine's.
        name: What C functions and files begin with; those of a WebAssembly module with `model`.
        folder: A folder that exists.

    Returns:
        The weights, then a module per instruction set; or a header, a shared library, a static
        library and a program.

    Raises:
        BackendError: The model has what a bundle cannot hold, or zig failed.
        ArtifactError: The folder cannot be written.
    """
    check_name(name)
    weights = write_weights(whole.constants, whole.program.constants, folder / WEIGHTS_NAME)
    if is_wasm(target.triple):
        links: dict[str, tuple[Kernels, Link]] = {
            f"{MODULES[isa]}{'.threads' * shared}.wasm": (
                Kernels(target.triple, (isa,), shared),
                link,
            )
            for isa in target.isas
            for shared, link in ((False, _link_module), (True, _link_shared_module))
        }
        name = WEB_NAME
    else:
        kernels = Kernels(target.triple, target.isas)
        links = {
            f"lib{name}.so": (kernels, _link_shared),
            f"lib{name}.a": (kernels, _link_static),
            name: (kernels, _link_program),
        }
    plan = plan_source(whole, weights, name)
    made = [folder / WEIGHTS_NAME]
    try:
        if not is_wasm(target.triple):
            made.append(folder / f"{name}.h")
            write_aside(made[-1], header(name))
        for file, (kernels, link) in links.items():
            with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
                link(_parts(whole, plan, kernels, name, Path(scratch)), file, Path(scratch))
                os.replace(Path(scratch) / file, folder / file)
            made.append(folder / file)
    except OSError as error:
        raise ArtifactError(
            f"cannot write the bundle {folder}: {error}",
            fix="choose a folder that can be written and has room",
        ) from error
    return made


def kernels_build(kernels: Kernels) -> Build:
    """What all bundles with these kernels may take from, as an archive."""
    return Build(
        name="bundle.a",
        triple=kernels.triple,
        sources=read_sources(HERE),
        units=kernels.built(units(kernels.isas, "bundle.c", "weights.c")),
        compile_flags=compile_flags(kernels.triple),
        link_flags=archive_flags(kernels.triple),
        link=ARCHIVE,
    )


def _parts(whole: Whole, plan: str, kernels: Kernels, name: str, folder: Path) -> Parts:
    """Compiles what is the model's own, in ``folder``."""
    own = {"model_plan.c": plan} | {f"extern_{each.name}.c": each.source for each in whole.externs}
    web = WEB_UNITS if is_wasm(kernels.triple) else ()
    build = Build(
        name="",
        triple=kernels.triple,
        sources=read_sources(HERE, WEB) | own,
        units=kernels.built((*map(Unit, (*own, *web)), *_chosen(whole, kernels.isas))),
        compile_flags=compile_flags(kernels.triple),
    )
    objects = compile_objects(build, folder)
    for file, content in whole.objects.items():
        if Path(file).name != file or file in objects:
            raise BackendError(
                f"object file {file!r} is not a plain name, or one that a bundle has itself",
                fix="give it another name",
            )
        (folder / file).write_bytes(content)
        objects.append(file)
    archive = str(build_cached(kernels_build(kernels)))
    return Parts((*objects, archive), kernels.triple, name)


def _chosen(whole: Whole, isas: Sequence[str]) -> tuple[Unit, ...]:
    """What the kernels of one program have in place of the whole of it."""
    kinds = {step.kind for step in whole.program.steps}
    shapes = (
        tuple(whole.constants[name].tolist())
        for step in whole.program.steps
        for name in step.constants[SHAPE::PACKED]
        if step.kind in WINDOWED
    )
    is_larger = any(shape[1:] == (5, 5, 1) for shape in shapes)
    return chosen_units(isas, kinds, 5 if is_larger else 3)


def _link_shared(parts: Parts, file: str, folder: Path) -> None:
    flags = (*ELF_SHARED, "--gc-sections", "-soname", file)
    run_zig(["ld.lld", *flags, *parts.objects, "-o", file], folder)


def _link_static(parts: Parts, file: str, folder: Path) -> None:
    """One object with nothing global but the API, in an archive."""
    merged = f"{parts.name}.o"
    run_zig(["ld.lld", *OBJECT_FLAGS, *parts.objects, "-o", merged], folder)
    (folder / merged).write_bytes(localize((folder / merged).read_bytes()))
    run_zig(filled(ARCHIVE, archive_flags(parts.triple), [merged], file), folder)


def _link_program(parts: Parts, file: str, folder: Path) -> None:
    triple = parts.triple.replace("gnu", "musl")
    runner = Build(
        name="bundle-runner.o",
        triple=triple,
        sources=read_sources(HERE),
        units=(Unit("runner.c"),),
        compile_flags=RUNNER_FLAGS,
        link_flags=OBJECT_FLAGS,
    )
    objects = (str(build_cached(runner)), *parts.objects)
    run_zig(["cc", "-target", triple, *PROGRAM_FLAGS, *objects, "-o", file], folder)


def _link_module(parts: Parts, file: str, folder: Path, *flags: str) -> None:
    exports = [f"--export={parts.name}_{call}" for call in CALLS]
    run_zig(["wasm-ld", *WASM_FLAGS, *flags, *exports, *parts.objects, "-o", file], folder)


def _link_shared_module(parts: Parts, file: str, folder: Path) -> None:
    _link_module(parts, file, folder, *SHARED_MEMORY_FLAGS)
