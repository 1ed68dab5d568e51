"""zig as the C compiler: objects in parallel, one link, cached by content.

Nothing depends on the machine: zig carries its own compiler, linker and target descriptions, and
the sources include no system header. The same inputs give the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sparsecc.backends.codegen.cache import is_kept, keep, place_of
from sparsecc.backends.codegen.systems import (
    ARCHIVE,
    ARCHIVE_FLAGS,
    ELF_LINK,
    ELF_SHARED,
    IMPORTS,
    SYSTEMS,
    WASM_LINK,
    Command,
    filled,
    machine,
)
from sparsecc.errors import BackendError
from sparsecc.targets.base import Triple

ZIG = (sys.executable, "-m", "ziglang")
TIMEOUT_S = 300
STDERR_TAIL = 2000
WASM_TRIPLE = "wasm32-freestanding"
WASM_STACK = 1 << 20
"""Bytes of the stack of a module."""
_INCLUDED = re.compile(r'#include "([^"]+)"')

COMPILE_FLAGS = (
    *("-O3", "-g0", "-std=gnu11", "-ffreestanding", "-fPIC", "-fvisibility=hidden"),
    *("-fno-stack-protector", "-fno-sanitize=all", "-fno-ident", "-ffp-contract=fast"),
    *("-ffunction-sections", "-fdata-sections"),
    *("-Wall", "-Wextra", "-Werror"),
)
WASM_COMPILE_FLAGS = (
    *(flag for flag in COMPILE_FLAGS if flag != "-fPIC"),
    *("-mllvm", "-disable-lsr"),
)
"""A module has its memory to itself: nothing in it moves. Loop strength reduction would take the
offsets out of loads and stores, as additions of their own."""

OBJECT_FLAGS = ("-r",)
"""For one relocatable object, to be linked by :func:`link_library`."""

WASM_FLAGS = (
    *("--no-entry", "--gc-sections", "--strip-all", "--compress-relocations"),
    *("--stack-first", "-z", f"stack-size={WASM_STACK}"),
)
"""For wasm-ld, called directly. The memory is exported and may grow; what no export reaches falls
away. Below the stack nothing lies: a stack that grows out of it traps."""


@dataclass(frozen=True)
class Unit:
    """One C source to compile.

    Attributes:
        source: File name inside the build's sources.
        cpu: zig's ``-mcpu``, empty for the base CPU of the triple.
        defines: ``-D`` values, such as ``"VB=64"``.
        flags: More compiler flags.
    """

    source: str
    cpu: str = ""
    defines: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Build:
    """Everything a built file depends on, besides zig's version.

    Attributes:
        name: File name of the result.
        triple: zig's target triple.
        sources: Text of every source and header by file name.
        units: What to compile.
        compile_flags: For every unit.
        link_flags: For the link.
        link: Command of the link, a template of ``codegen/systems.py``.
    """

    name: str
    triple: str
    sources: dict[str, str]
    units: tuple[Unit, ...]
    compile_flags: tuple[str, ...] = COMPILE_FLAGS
    link_flags: tuple[str, ...] = ELF_SHARED
    link: Command = ELF_LINK


def is_wasm(triple: str) -> bool:
    """Whether a triple's objects are WebAssembly."""
    return triple.startswith("wasm")


def compile_flags(triple: Triple) -> tuple[str, ...]:
    """Flags for every unit of a triple."""
    if is_wasm(triple):
        return WASM_COMPILE_FLAGS
    system = SYSTEMS.get(triple)
    return (*COMPILE_FLAGS, *(system.compile_flags if system else ()))


def archive_flags(triple: Triple) -> tuple[str, ...]:
    """Flags for an archive of a triple's objects."""
    return ARCHIVE_FLAGS if is_wasm(triple) else SYSTEMS[triple].archive_flags


def wasm_module(
    name: str, sources: dict[str, str], units: tuple[Unit, ...], exports: Sequence[str]
) -> Build:
    """A WebAssembly module, to be made by :func:`build_cached`.

    It exports its memory and the functions named, not ``__stack_pointer``: engines reach a global
    that can be changed from outside more slowly. It imports what the sources declare with
    ``import_module`` and nothing else.

    Args:
        name: File name of the result.
        sources: Text of every source and header by file name.
        units: What to compile, such as ``kernels.sources.units(["wasm-simd128"])``.
        exports: C functions.
    """
    flags = (*WASM_FLAGS, *(f"--export={function}" for function in exports))
    return Build(name, WASM_TRIPLE, sources, units, WASM_COMPILE_FLAGS, flags, WASM_LINK)


def shared_library(
    stem: str,
    triple: Triple,
    sources: dict[str, str],
    units: tuple[Unit, ...],
    exports: Sequence[str],
) -> Build:
    """A shared library, to be made by :func:`build_cached`.

    Args:
        stem: What it is of: the library's name without what the system puts around it.
        triple: zig's target triple.
        sources: Text of every source and header by file name.
        units: What to compile.
        exports: C functions that are reachable from outside.
    """
    system = SYSTEMS[triple]
    flags, name = system.shared_flags(exports), system.shared.format(stem)
    return Build(name, triple, sources, units, compile_flags(triple), flags, system.link)


def static_library(
    stem: str, triple: Triple, sources: dict[str, str], units: tuple[Unit, ...]
) -> Build:
    """The same as an archive, of which a link takes the objects that it needs."""
    flags, name = archive_flags(triple), SYSTEMS[triple].archive.format(stem)
    return Build(name, triple, sources, units, compile_flags(triple), flags, ARCHIVE)


def import_library(stem: str, triple: Triple, exports: Sequence[str]) -> Build:
    """What a program is linked with that calls a shared library's functions, where that is a file.

    Args:
        stem: The same as that of the shared library.
        triple: zig's target triple; its system has ``imports``.
        exports: C functions that are reachable from outside.
    """
    system = SYSTEMS[triple]
    name = system.imports.format(stem)
    text = "\n".join((f"LIBRARY {system.shared.format(stem)}", "EXPORTS", *exports, ""))
    return Build(name, triple, {f"{Path(name).stem}.def": text}, (), (), (), IMPORTS)


def run_zig(arguments: Sequence[str], folder: Path) -> str:
    """Output of a zig command, run in ``folder``.

    Raises:
        BackendError: zig is missing, fails or hangs; with the end of what it said.
    """
    command = [*ZIG, *arguments]
    try:
        with tempfile.TemporaryDirectory() as cache:  # zig's own would keep every object for ever
            done = subprocess.run(
                command,
                cwd=folder,
                env=os.environ | {"ZIG_LOCAL_CACHE_DIR": cache},
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"zig could not run: {error}", fix="pip install ziglang") from error
    if done.returncode:
        tail = done.stderr.strip()[-STDERR_TAIL:]
        what = " ".join(arguments[:2])
        if "No module named" in tail:
            raise BackendError("zig is not installed", fix="pip install ziglang")
        raise BackendError(
            f"zig {what} failed with code {done.returncode}:\n{tail}",
            fix="check that the sources compile and that the cache folder is writable",
        )
    return done.stdout


@functools.cache
def zig_version() -> str:
    """Version of the installed zig."""
    return run_zig(["version"], Path.cwd()).strip()


def _key(build: Build) -> str:
    content = repr((zig_version(), build.name, build.triple, sorted(build.sources.items())))
    machines = [machine(build.triple, unit.cpu) for unit in build.units]
    how = repr((build.units, machines, build.compile_flags, build.link_flags, build.link))
    return hashlib.sha256((content + how).encode()).hexdigest()[:32]


def included(sources: Mapping[str, str], *names: str) -> dict[str, str]:
    """Texts of sources and of all that they include among them."""
    read: dict[str, str] = {}
    left = list(names)
    while left:
        name = left.pop()
        if name in sources and name not in read:
            read[name] = sources[name]
            left += _INCLUDED.findall(sources[name])
    return read


def _object_key(build: Build, unit: Unit) -> str:
    read = included(build.sources, unit.source)
    how = (machine(build.triple, unit.cpu), build.compile_flags, unit)
    content = repr((zig_version(), how, sorted(read.items())))
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _compile(build: Build, unit: Unit, number: int, folder: Path) -> str:
    """Object of a unit, in ``folder``; from the cache if nothing that it reads changed."""
    stem = Path(unit.source).stem
    output = f"{number:02}-{stem}.o"
    place = place_of(_object_key(build, unit), f"{stem}.o")
    if is_kept(place):
        shutil.copyfile(place, folder / output)
        return output
    defines = [f"-D{define}" for define in unit.defines]
    flags = [*build.compile_flags, *unit.flags]
    target = machine(build.triple, unit.cpu)
    run_zig(["cc", *target, *flags, *defines, "-c", unit.source, "-o", output], folder)
    keep(folder / output, place)
    return output


def compile_objects(build: Build, folder: Path) -> list[str]:
    """Names of the objects of a build's units, in their order, in ``folder``.

    Raises:
        BackendError: zig failed.
    """
    for name, text in build.sources.items():
        (folder / name).write_bytes(text.encode())
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(
            pool.map(lambda pair: _compile(build, pair[1], pair[0], folder), enumerate(build.units))
        )


def compile_and_link(build: Build, folder: Path) -> Path:
    """Build in ``folder``; only its objects may come from the cache.

    Raises:
        BackendError: zig failed.
    """
    objects = compile_objects(build, folder)
    run_zig(filled(build.link, build.link_flags, objects, build.name), folder)
    return folder / build.name


def build_cached(build: Build) -> Path:
    """The built file in the cache, made first if it is not there.

    Raises:
        BackendError: zig failed, or the cache folder cannot be written.
    """
    place = place_of(_key(build), build.name)
    if not is_kept(place):
        with tempfile.TemporaryDirectory() as scratch:
            keep(compile_and_link(build, Path(scratch)), place)
    return place


def link_library(
    built: Path, output: Path, triple: Triple, sources: Mapping[str, bytes] | None = None
) -> None:
    """Link an object, and what assembler sources define, into a shared library.

    Args:
        built: A file made with :data:`OBJECT_FLAGS`.
        output: The library, in a folder that exists; it appears there whole or not at all.
        triple: zig's target triple.
        sources: ``.s`` files to assemble, and files that these include, by name.

    Raises:
        BackendError: zig failed, or a file cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".link-") as aside:
            folder, objects = Path(aside), [str(built)]
            for name, content in (sources or {}).items():
                (folder / name).write_bytes(content)
            for name in (name for name in sources or {} if name.endswith(".s")):
                run_zig(["cc", "-target", triple, "-c", name, "-o", f"{name}.o"], folder)
                objects.append(f"{name}.o")
            system = SYSTEMS[triple]
            run_zig(filled(system.link, system.flags, objects, output.name), folder)
            os.replace(folder / output.name, output)
    except OSError as error:
        raise BackendError(
            f"cannot write the library {output}: {error}",
            fix="choose a folder that can be written and has room",
        ) from error


def copy_into(built: Path, folder: Path) -> Path:
    """Copy a built file into a folder, appearing there whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / built.name
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{built.name}-", delete=False) as aside:
        aside.write(built.read_bytes())
    shutil.copymode(built, aside.name)
    os.replace(aside.name, target)
    return target
