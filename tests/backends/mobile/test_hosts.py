"""Bundles for systems that nothing here runs: built, and looked into."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lief
import pytest

from sparsecc.backends.bundle.build import build_bundle
from sparsecc.targets import TARGETS
from tests.backends.bundle import wholes

_NAMES = ("inputs", "outputs", "create", "plan", "run", "error", "destroy")
CALLS = {f"tiny_{name}" for name in _NAMES}
BESIDE = {"tiny.h", "weights.bin"}


def test_windows(tmp_path: Path) -> None:
    target = dataclasses.replace(TARGETS["x86-64-windows"], name="quick", isas=("x86-64-v3",))
    made = {path.name for path in build_bundle(wholes.MLP[0], target, "tiny", tmp_path)}
    assert made == {"tiny.dll", "tiny.lib", "tiny_static.lib"} | BESIDE
    library = lief.parse(str(tmp_path / "tiny.dll"))
    assert isinstance(library, lief.PE.Binary)
    assert library.header.machine == lief.PE.Header.MACHINE_TYPES.AMD64
    assert {str(entry.name) for entry in library.get_export().entries} == CALLS
    assert list(library.imports) == []
    assert b"tiny.dll\0" in (tmp_path / "tiny.lib").read_bytes()


def test_macos(tmp_path: Path) -> None:
    made = build_bundle(wholes.MLP[0], TARGETS["arm64-macos"], "tiny", tmp_path)
    assert {path.name for path in made} == {"libtiny.dylib", "libtiny.a"} | BESIDE
    library = lief.parse(str(tmp_path / "libtiny.dylib"))
    assert isinstance(library, lief.MachO.Binary)
    assert library.header.cpu_type == lief.MachO.Header.CPU_TYPE.ARM64
    exported = {str(function.name).removeprefix("_") for function in library.exported_functions}
    assert exported >= CALLS
    assert not {name for name in exported - CALLS if not name.startswith("_")}
    assert [each.name for each in library.libraries][-1] == "/usr/lib/libSystem.B.dylib"
    assert library.has_code_signature


@pytest.mark.parametrize("name", ["arm64-macos", "arm64-ios"])
def test_two_models_link_into_one_program(name: str, tmp_path: Path) -> None:
    archives = []
    for model in ("one", "other"):
        (tmp_path / model).mkdir()
        build_bundle(wholes.MLP[0], TARGETS[name], model, tmp_path / model)
        archives.append((tmp_path / model / f"lib{model}.a").read_bytes())
    for mine, yours in (archives, archives[::-1]):
        assert b"_one_sc_" in mine or b"_other_sc_" in mine
        assert not (b"_one_sc_" in mine and b"_one_sc_" in yours)
