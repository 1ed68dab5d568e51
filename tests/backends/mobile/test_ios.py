"""The iOS artifact: a Swift package whose library is looked into; nothing here runs it."""

from __future__ import annotations

import plistlib
from pathlib import Path

import lief

from sparsecc import manifest as manifests
from tests.backends.mobile.conftest import files

LIBRARY = "model.xcframework/ios-arm64/libmodel.a"
CALLS = {"inputs", "outputs", "create", "plan", "run", "error", "destroy"}
EXTERNAL, TYPE, IN_SECTION = 0x01, 0x0E, 0x0E
OF_THE_SYSTEM = {"bzero", "sysctlbyname"}


def members(archive: bytes) -> list[bytes]:
    """Objects of an archive with BSD names."""
    found, at = [], 8
    while at < len(archive):
        header = archive[at : at + 60]
        size, name = int(header[48:58]), header[:16].decode().strip()
        long = int(name[3:]) if name.startswith("#1/") else 0
        content = archive[at + 60 + long : at + 60 + size]
        if content.startswith(b"\xcf\xfa\xed\xfe"):
            found.append(content)
        at += 60 + size + size % 2
    return found


def symbols(archive: bytes) -> tuple[set[str], set[str]]:
    """Names that objects of an archive define for others, and names that they need."""
    defined: set[str] = set()
    used: set[str] = set()
    for content in members(archive):
        binary = lief.MachO.parse(list(content))
        assert binary is not None
        (part,) = binary
        assert part.header.cpu_type == lief.MachO.Header.CPU_TYPE.ARM64
        for symbol in part.symbols:
            if symbol.raw_type & EXTERNAL:
                here = symbol.raw_type & TYPE == IN_SECTION
                (defined if here else used).add(str(symbol.name).removeprefix("_"))
    return defined, used


def test_the_folder_is_a_swift_package(ios: Path) -> None:
    framework = {LIBRARY, "model.xcframework/Info.plist"}
    headers = {
        f"model.xcframework/ios-arm64/Headers/{name}" for name in ("model.h", "module.modulemap")
    }
    assert files(ios) == {
        *framework,
        *headers,
        *("Package.swift", "README.md", "Sources/model/Model.swift", "Sources/model/model.bin"),
        *("manifest.json", "report.html"),
    }
    for name in ("Package.swift", "README.md", "Sources/model/Model.swift", *headers):
        assert "NAME" not in (ios / name).read_text()
    made = plistlib.loads((ios / "model.xcframework/Info.plist").read_bytes())
    (library,) = made["AvailableLibraries"]
    assert (
        ios / "model.xcframework" / library["LibraryIdentifier"] / library["LibraryPath"]
    ).is_file()
    assert manifests.read_manifest(ios).not_run


def test_the_library_has_its_api_and_no_other_name_of_its_own(ios: Path) -> None:
    defined, used = symbols((ios / LIBRARY).read_bytes())
    public = {f"model_{call}" for call in CALLS}
    assert public <= defined
    assert all(name.startswith("model_") for name in defined)
    assert used - defined <= OF_THE_SYSTEM
