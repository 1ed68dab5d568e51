"""The libraries and the program of a bundle, as each system has them."""

from __future__ import annotations

from pathlib import Path

from sparsecc.backends.bundle.localize import localize
from sparsecc.backends.bundle.parts import HERE, Link, Parts, kernels_build
from sparsecc.backends.codegen.prefix import needed, prefixed
from sparsecc.backends.codegen.systems import ARCHIVE, ELF_LINK, SYSTEMS, filled
from sparsecc.backends.codegen.toolchain import (
    OBJECT_FLAGS,
    Build,
    Unit,
    archive_flags,
    build_cached,
    compile_objects,
    copy_into,
    import_library,
    run_zig,
)
from sparsecc.backends.kernels.sources import read_sources
from sparsecc.targets.base import Triple

CALLS = ("inputs", "outputs", "create", "plan", "run", "error", "destroy")
"""Functions of the C API, without the model's name before them."""
PROGRAMS: frozenset[Triple] = frozenset({"x86_64-linux-gnu", "aarch64-linux-gnu"})
"""What a program that runs the model on files is built for."""
RUNNER_FLAGS = (
    *("-O2", "-g0", "-std=gnu11", "-fno-sanitize=all", "-fno-ident"),
    *("-Wall", "-Wextra", "-Werror"),
)
PROGRAM_FLAGS = ("-static", "-s", "-Wl,--gc-sections", "-Wl,--build-id=none")


def links_of(triple: Triple, name: str) -> dict[str, Link]:
    """What is linked for a system: file name -> how.

    Args:
        triple: zig's target triple.
        name: What C functions and files begin with.
    """
    system = SYSTEMS[triple]
    links: dict[str, Link] = {}
    if system.shared:
        links[system.shared.format(name)] = _shared
    if system.imports:
        links[system.imports.format(name)] = _imports
    links[system.archive.format(name)] = _merged if system.link is ELF_LINK else _renamed
    if triple in PROGRAMS:
        links[name] = _program
    return links


def public(name: str) -> list[str]:
    """The functions of the C API."""
    return [f"{name}_{call}" for call in CALLS]


def _shared(parts: Parts, file: str, folder: Path) -> None:
    system = SYSTEMS[parts.triple]
    flags = (*system.shared_flags(public(parts.name)), *system.sweep)
    run_zig(filled(system.link, flags, (*parts.java, *parts.objects), file), folder)


def _imports(parts: Parts, file: str, folder: Path) -> None:
    build = import_library(parts.name, parts.triple, public(parts.name))
    copy_into(build_cached(build), folder)


def _merged(parts: Parts, file: str, folder: Path) -> None:
    """One object with nothing global but the API, in an archive."""
    merged = f"{parts.name}.o"
    run_zig(["ld.lld", *OBJECT_FLAGS, *parts.objects, "-o", merged], folder)
    (folder / merged).write_bytes(localize((folder / merged).read_bytes()))
    _archived(parts.triple, [merged], file, folder)


def _renamed(parts: Parts, file: str, folder: Path) -> None:
    """The objects that it needs, with a prefix before every name but those of the API."""
    kernels = folder / "kernels"
    kernels.mkdir()
    shared = [kernels / each for each in compile_objects(kernels_build(parts.kernels), kernels)]
    own = [folder / each for each in parts.own]
    chosen = needed([path.read_bytes() for path in own], [path.read_bytes() for path in shared])
    paths = [*own, *(shared[number] for number in chosen)]
    contents = prefixed(
        [path.read_bytes() for path in paths], f"{parts.name}_", frozenset(public(parts.name))
    )
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    _archived(parts.triple, [path.relative_to(folder).as_posix() for path in paths], file, folder)


def _archived(triple: Triple, objects: list[str], file: str, folder: Path) -> None:
    run_zig(filled(ARCHIVE, archive_flags(triple), objects, file), folder)


def _program(parts: Parts, file: str, folder: Path) -> None:
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
