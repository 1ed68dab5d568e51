"""What libraries are called and how they are linked, by triple: one row for each system.

A command is a template for zig: ``{flags}`` and ``{objects}`` stand for several arguments, and
``{name}`` for the name of what is made. Linkers are called directly where they can be: through
``zig cc`` a link would first build runtime libraries that freestanding objects do not need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sparsecc.targets.base import Triple

Command = tuple[str, ...]

ELF_LINK: Command = ("ld.lld", "{flags}", "{objects}", "-o", "{name}")
WASM_LINK: Command = ("wasm-ld", "{flags}", "{objects}", "-o", "{name}")
COFF_LINK: Command = ("lld-link", "{flags}", "{objects}", "/out:{name}")
ARCHIVE: Command = ("ar", "{flags}", "{name}", "{objects}")
IMPORTS: Command = ("lib", "/machine:x64", "/def:{stem}.def", "/out:{name}")
"""The library that a program is linked with to find a DLL's functions."""

ARCHIVE_FLAGS = ("--format=gnu", "rcsD")
ELF_SHARED = ("-shared", "-z", "defs", "-z", "noexecstack", "--strip-all", "--build-id=none")
BASE_CPU = "generic"
PAGES_16K = ("-z", "max-page-size=16384", "-z", "common-page-size=16384")
"""Android 15 runs on pages of 4 and of 16 KB; segments have to lie apart for the larger ones."""
SONAME = ("-soname", "{name}")
COFF_SHARED = ("/dll", "/noentry", "/nodefaultlib", "/nologo", "/Brepro")
MACHO_SHARED = ("-shared", "-nostdlib", "-Wl,-install_name,@rpath/{name}", "-s")


@dataclass(frozen=True)
class System:
    """An operating system, as far as building for it goes.

    Attributes:
        title: As users know it.
        shared: File name of a shared library, ``{}`` being what it is of; empty where there is
            none.
        archive: File name of a static library.
        link: Command that links a shared library.
        flags: Of that command.
        archive_flags: Of :data:`ARCHIVE`.
        compiled_as: Triple that zig is told when it compiles, where that is another.
        features: Of the processor, added to every unit's.
        compile_flags: Of every unit, beside those of all systems.
        sweep: Flags that leave out what nothing reaches, where the linker does not do it anyway.
        export: Flag that makes a function of a shared library reachable; empty where the visibility
            in its source does.
        imports: File name of the library to link with instead of the shared one; empty where there
            is none.
    """

    title: str
    shared: str
    archive: str
    link: Command
    flags: tuple[str, ...]
    archive_flags: tuple[str, ...] = ARCHIVE_FLAGS
    compiled_as: str = ""
    features: str = ""
    compile_flags: tuple[str, ...] = ()
    sweep: tuple[str, ...] = ()
    export: str = ""
    imports: str = ""

    def shared_flags(self, exports: Sequence[str] = ()) -> tuple[str, ...]:
        """Flags of a shared library with these functions."""
        wanted = (self.export.format(name) for name in exports) if self.export else ()
        return (*self.flags, *wanted)


LINUX = System(
    "Linux", "lib{}.so", "lib{}.a", ELF_LINK, (*ELF_SHARED, *SONAME), sweep=("--gc-sections",)
)


def _apple(title: str, triple: Triple) -> System:
    return System(
        title,
        "lib{}.dylib",
        "lib{}.a",
        ("cc", "-target", triple, "{flags}", "{objects}", "-o", "{name}"),
        MACHO_SHARED,
        ("--format=darwin", "rcsD"),
        sweep=("-Wl,-dead_strip",),
    )


SYSTEMS: Mapping[str, System] = {
    "x86_64-linux-gnu": LINUX,
    "aarch64-linux-gnu": LINUX,
    "aarch64-linux-android": replace(
        LINUX,
        title="Android",
        flags=(*LINUX.flags, *PAGES_16K),
        compiled_as="aarch64-linux-gnu",  # for Android atomics are calls of a compiler's library
        features="+reserve_x18",  # a register that Android keeps for itself
    ),
    "x86_64-windows-gnu": System(
        "Windows",
        "{}.dll",
        "{}_static.lib",
        COFF_LINK,
        COFF_SHARED,
        compile_flags=("-s",),  # or an object says where it was made
        export="/export:{}",
        imports="{}.lib",
    ),
    "aarch64-macos.11.0": _apple("macOS", "aarch64-macos.11.0"),
    "aarch64-ios.13.0": replace(_apple("iOS", "aarch64-ios.13.0"), shared=""),
}
"""WebAssembly is not among them: a module is linked for what it exports."""


def machine(triple: str, cpu: str) -> list[str]:
    """Arguments of a compiler for a processor; without one, for the least of the triple."""
    system = SYSTEMS.get(triple)
    if system is None or not (system.compiled_as or system.features):
        return ["-target", triple, *([f"-mcpu={cpu}"] if cpu else [])]
    return ["-target", system.compiled_as or triple, f"-mcpu={cpu or BASE_CPU}{system.features}"]


def filled(command: Command, flags: Sequence[str], objects: Sequence[str], name: str) -> list[str]:
    """The arguments of a command."""
    many = {"{flags}": flags, "{objects}": objects}
    stem = name.rpartition(".")[0]
    return [
        argument.replace("{name}", name).replace("{stem}", stem)
        for part in command
        for argument in many.get(part, (part,))
    ]
