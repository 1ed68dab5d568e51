"""What the files of a bundle are linked from: its own objects, and what all bundles share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsecc.backends.bundle.whole import Whole
from sparsecc.backends.codegen.systems import ARCHIVE
from sparsecc.backends.codegen.toolchain import (
    Build,
    Unit,
    archive_flags,
    build_cached,
    compile_flags,
    compile_objects,
    is_wasm,
)
from sparsecc.backends.kernels.sources import chosen_units, read_sources, units
from sparsecc.errors import BackendError
from sparsecc.targets.base import Triple

HERE = Path(__file__).parent
WEB = HERE.parent / "web"
WEB_UNITS = ("memory.c", "stream.c", "threads.c")
MOBILE = HERE.parent / "mobile"
JAVA_UNITS = ("jni.c", "pages.c")
ANDROID: Triple = "aarch64-linux-android"
WASM_BASE, SHARED_CPU = "lime1", "+atomics+bulk_memory"
WINDOWED = ("conv", "chain")
"""Step kinds with packed weights of convolutions, of :data:`PACKED` constants each."""
PACKED, SHAPE = 5, 3


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
        own: Objects of the model, by their names in the folder of the link.
        java: Objects by which Java calls it, for a shared library on Android.
        kernels: Which kernels the archive beside them has.
        name: What C functions begin with.
    """

    own: tuple[str, ...]
    java: tuple[str, ...]
    kernels: Kernels
    name: str

    @property
    def triple(self) -> Triple:
        """Target triple of zig."""
        return self.kernels.triple

    @property
    def objects(self) -> tuple[str, ...]:
        """The model's own objects, and the archive of all that they may need."""
        return (*self.own, str(build_cached(kernels_build(self.kernels))))


Link = Callable[[Parts, str, Path], None]
"""Makes a file of this name in a folder."""


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


def parts_of(whole: Whole, plan: str, kernels: Kernels, name: str, folder: Path) -> Parts:
    """Compiles what is the model's own, in ``folder``."""
    own = {"model_plan.c": plan} | {f"extern_{each.name}.c": each.source for each in whole.externs}
    web = WEB_UNITS if is_wasm(kernels.triple) else ()
    java = JAVA_UNITS if kernels.triple == ANDROID else ()
    build = Build(
        name="",
        triple=kernels.triple,
        sources=read_sources(HERE, WEB, MOBILE) | own,
        units=kernels.built((*map(Unit, (*java, *own, *web)), *_chosen(whole, kernels.isas))),
        compile_flags=compile_flags(kernels.triple),
    )
    made = compile_objects(build, folder)
    for_java, objects = made[: len(java)], made[len(java) :]
    for file, content in whole.objects.items():
        if Path(file).name != file or file in objects:
            raise BackendError(
                f"object file {file!r} is not a plain name, or one that a bundle has itself",
                fix="give it another name",
            )
        (folder / file).write_bytes(content)
        objects.append(file)
    return Parts(tuple(objects), tuple(for_java), kernels, name)


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
