"""Libraries for every system, looked into: format, exports, imports, alignment, the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lief
import pytest

from sparsecc.backends.codegen import cache, toolchain
from sparsecc.backends.codegen.prefix import prefixed
from sparsecc.backends.codegen.systems import SYSTEMS
from sparsecc.backends.codegen.toolchain import (
    Build,
    Unit,
    build_cached,
    compile_flags,
    compile_objects,
    import_library,
    run_zig,
    shared_library,
    static_library,
)
from sparsecc.backends.kernels.sources import HERE
from sparsecc.errors import BackendError
from sparsecc.targets.base import Triple

EXPORT = '__attribute__((visibility("default"))) '
SOURCES = {
    "add.c": f"int twice(int); {EXPORT}int add(int a, int b) {{ return twice(a) + b; }}\n",
    "twice.c": "__attribute__((weak)) int by = 2; int twice(int a) { return by * a; }\n",
    "stack.c": (HERE / "stack.c").read_text(),
}
UNITS = tuple(map(Unit, SOURCES))
SHARED = [triple for triple, system in SYSTEMS.items() if system.shared]
WINDOWS: Triple = "x86_64-windows-gnu"
ANDROID: Triple = "aarch64-linux-android"
MACOS: Triple = "aarch64-macos.11.0"


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path / "cache")


def read(path: Path) -> lief.Binary:
    found = lief.parse(str(path))
    assert found is not None
    return found


def exported(binary: lief.Binary) -> set[str]:
    if isinstance(binary, lief.PE.Binary):
        return {entry.name for entry in binary.get_export().entries}
    names = {str(function.name).removeprefix("_") for function in binary.exported_functions}
    return {name for name in names if not name.startswith("_")}  # those are of every library


@pytest.mark.parametrize("triple", SHARED)
def test_a_shared_library_has_what_it_should_and_needs_nothing(triple: Triple) -> None:
    built = build_cached(shared_library("two", triple, SOURCES, UNITS, ["add"]))
    binary = read(built)
    assert built.name == SYSTEMS[triple].shared.format("two")
    assert exported(binary) == {"add"}
    imported = {str(function.name) for function in binary.imported_functions}
    assert imported <= ({"dyld_stub_binder"} if "macos" in triple else set())
    system = ["/usr/lib/libSystem.B.dylib"] if "macos" in triple else []
    assert [str(getattr(each, "name", each)) for each in binary.libraries][-1:] == system


def test_an_android_library_is_for_pages_of_16_kb() -> None:
    binary = read(build_cached(shared_library("two", ANDROID, SOURCES, UNITS, [])))
    assert isinstance(binary, lief.ELF.Binary)
    loaded = [each for each in binary.segments if each.type == lief.ELF.Segment.TYPE.LOAD]
    assert loaded
    assert {each.alignment for each in loaded} == {1 << 14}
    assert all(each.virtual_address % (1 << 14) == each.file_offset % (1 << 14) for each in loaded)
    named = [
        each for each in binary.dynamic_entries if each.tag == lief.ELF.DynamicEntry.TAG.SONAME
    ]
    assert [each.name for each in named] == ["libtwo.so"]  # type: ignore[attr-defined]


def test_a_mac_loads_a_library_from_where_an_app_has_it() -> None:
    binary = read(build_cached(shared_library("two", MACOS, SOURCES, UNITS, [])))
    assert isinstance(binary, lief.MachO.Binary)
    names = [each.name for each in binary.commands if isinstance(each, lief.MachO.DylibCommand)]
    assert names[0] == "@rpath/libtwo.dylib"
    assert binary.has_code_signature  # without one a Mac of this processor runs nothing


def test_windows_finds_a_librarys_functions_by_an_import_library() -> None:
    content = build_cached(import_library("two", WINDOWS, ["add"])).read_bytes()
    assert content.startswith(b"!<arch>\n")
    assert b"__imp_add\0" in content
    assert b"two.dll\0" in content


@pytest.mark.parametrize("triple", SYSTEMS)
def test_a_library_is_the_same_bytes_every_time(
    triple: Triple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = [static_library("two", triple, SOURCES, UNITS)]
    if SYSTEMS[triple].shared:
        builds.append(shared_library("two", triple, SOURCES, UNITS, ["add"]))
    first = [build_cached(build).read_bytes() for build in builds]
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path / "another")
    assert [build_cached(build).read_bytes() for build in builds] == first
    assert first[0].startswith(b"!<arch>\n")


@pytest.mark.parametrize("triple", [WINDOWS, ANDROID])
def test_what_is_missing_is_an_error(triple: Triple) -> None:
    build = shared_library("two", triple, SOURCES, UNITS[:1], ["add"])
    with pytest.raises(BackendError, match="undefined symbol: twice"):
        build_cached(build)


def test_a_large_frame_on_windows_touches_its_pages() -> None:
    large = f"int use(char *); {EXPORT}int add(void) {{ char all[99999]; return use(all); }}\n"
    sources = SOURCES | {"add.c": large, "twice.c": "int use(char *a) { return a[9]; }\n"}
    build = shared_library("two", WINDOWS, sources, UNITS, ["add"])
    assert exported(read(build_cached(build))) == {"add"}
    with pytest.raises(BackendError, match="undefined symbol: ___chkstk_ms"):
        build_cached(replace(build, units=UNITS[:2]))


def objects_of(triple: Triple, name: str, folder: Path) -> list[str]:
    """Objects of a library whose public function has a name of its own, and no other symbol."""
    folder.mkdir()
    sources = SOURCES | {"add.c": SOURCES["add.c"].replace("add", name)}
    build = Build("", triple, sources, UNITS, compile_flags(triple))
    paths = [folder / each for each in compile_objects(build, folder)]
    renamed = prefixed([path.read_bytes() for path in paths], f"{name}_", {name})
    for path, content in zip(paths, renamed, strict=True):
        path.write_bytes(content)
    return [str(path) for path in paths]


@pytest.mark.parametrize("triple", [WINDOWS, MACOS])
def test_two_libraries_with_prefixes_link_into_one(triple: Triple, tmp_path: Path) -> None:
    system = SYSTEMS[triple]
    mine, yours = (objects_of(triple, name, tmp_path / name) for name in ("one", "other"))
    flags = system.shared_flags(["one", "other"])
    run_zig(toolchain.filled(system.link, flags, [*mine, *yours], "both"), tmp_path)
    assert exported(read(tmp_path / "both")) == {"one", "other"}
    again = objects_of(triple, "one", tmp_path / "again")
    twice = toolchain.filled(system.link, system.shared_flags(["one"]), [*mine, *again], "both")
    with pytest.raises(BackendError, match="duplicate symbol"):
        run_zig(twice, tmp_path)


def test_other_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="neither"):
        prefixed([b"\x7fELF\x02\x01"], "a_", set())
